# Servers for the TAP tests: PostgreSQL's own test cluster with the extension
# loaded, orbit as the default, and write buffers as small as they can be; and what
# the tests do to them: stop points, sessions in the background, kill -9.
#
# Whatever waits dies when it has waited for too long.
#
# With ORBIT_TEST_AM=heap the servers are plain ones, with heap tables: for tests that ask
# for nothing that only orbit has.
package OrbitNode;

use strict;
use warnings;
use Exporter qw(import);
use Fcntl qw(:flock);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep);

our @EXPORT_OK = qw(orbit_node orbit_standby start_is_refused
  stop_at set_stop clear_stop wait_stopped
  in_background wait_done
  ask worker_pid wait_recovered postmaster_pid children kill_all kill_all_and_start
  eventually write_file);

my $timeout = $PostgreSQL::Test::Utils::timeout_default;
my $heap = ($ENV{ORBIT_TEST_AM} // 'orbit') eq 'heap';
my @orbit_settings = (
	q{shared_preload_libraries = 'orbit_fdw'},
	q{default_table_access_method = 'orbit'},
	q{orbit.write_buffer_size = '256kB'},
	q{orbit.max_write_buffers = 3},
	q{orbit.page_cache_size = '2MB'},
	q{orbit.block_cache_size = '1MB'},
	q{orbit.flush_interval = '200ms'});

# The first server of each program is a copy of one that initdb has made for all of them; it alone,
# or servers of one test would be the same cluster.
my $copied = 0;

sub init_node
{
	my ($node, %init) = @_;
	my $run = \&PostgreSQL::Test::Utils::system_or_bail;
	return $node->init(%init) if $copied++;
	no warnings 'redefine';
	local *PostgreSQL::Test::Utils::system_or_bail = sub {
		my ($program, @args) = @_;
		return $run->(@_) if $program ne 'initdb';
		my $data = $node->data_dir;
		my $template = join('_', "$ENV{TESTDIR}/initdb", map { s/\W//gr } grep { $_ ne $data } @args);
		open(my $lock, '>', "$template.lock") or die "$template.lock: $!";
		flock($lock, LOCK_EX) or die "flock: $!";
		if (!-d $template)
		{
			$run->('rm', '-rf', "$template.new");
			$run->('initdb', map { $_ eq $data ? "$template.new" : $_ } @args);
			rename("$template.new", $template) or die "rename: $!";
		}
		close $lock;
		return $run->('cp', '-a', $template, $data);
	};
	return $node->init(%init);
}

# orbit_node(name, [options of init,] settings...): initialized and started, with the
# extension, and the stop points' functions in database postgres.
sub orbit_node
{
	my ($name, @settings) = @_;
	my %init = (allows_streaming => 0, ref $settings[0] ? %{ shift @settings } : ());
	my $node = PostgreSQL::Test::Cluster->new($name);
	init_node($node, %init);
	$node->append_conf('postgresql.conf', join("\n", $heap ? () : @orbit_settings,
			q{shared_buffers = '16MB'}, q{autovacuum_naptime = '1s'}, q{max_prepared_transactions = 20}, @settings, ''));
	$node->start;
	return $node if $heap;
	$node->safe_psql('template1', 'CREATE EXTENSION orbit_fdw');
	$node->safe_psql(
		'postgres', q{
CREATE EXTENSION orbit_fdw;
CREATE FUNCTION orbit_stop_point_set(name TEXT, action TEXT, skip INT) RETURNS void
	AS 'orbit_fdw', 'orbit_stop_point_set' LANGUAGE C STRICT;
CREATE FUNCTION orbit_stop_point_clear(name TEXT) RETURNS void
	AS 'orbit_fdw', 'orbit_stop_point_clear' LANGUAGE C STRICT;
CREATE FUNCTION orbit_stop_point_waiters(name TEXT) RETURNS INT
	AS 'orbit_fdw', 'orbit_stop_point_waiters' LANGUAGE C STRICT;});
	return $node;
}

# A standby of a node (which may be one itself), which is stopped for a moment: base backups do not carry RocksDB's files.
sub orbit_standby
{
	my ($node, $name) = @_;
	$name //= 'standby';
	$node->stop('fast');
	$node->backup_fs_cold($name);
	$node->start;
	my $standby = PostgreSQL::Test::Cluster->new($name);
	$standby->init_from_backup($node, $name, has_streaming => 1);
	$standby->start;
	return $standby;
}

# A start that fails, or a server that has started and stops itself: the worker may find what is
# wrong when it is too late for pg_ctl.  False: it stays, for so many seconds at least.
sub start_is_refused
{
	my ($node, $patience) = @_;
	$node->start(fail_ok => 1);
	for (1 .. 10 * ($patience // $timeout))
	{
		last unless postmaster_pid($node->data_dir);
		sleep 0.1;
	}
	return 0 if postmaster_pid($node->data_dir);
	$node->{_pid} = undef;
	return 1;
}

# ---- stop points (src/base/stop.c) -------------------------------------------------

# The action is what the process does that comes by after `skip` others.
sub set_stop
{
	my ($node, $point, $action, $skip) = @_;
	$node->safe_psql('postgres', "SELECT orbit_stop_point_set('$point', '$action', $skip)");
	return;
}

sub stop_at
{
	my ($node, $point) = @_;
	return set_stop($node, $point, 'wait', 0);
}

sub clear_stop
{
	my ($node, $point) = @_;
	$node->safe_psql('postgres', "SELECT orbit_stop_point_clear('$point')");
	return;
}

sub wait_stopped
{
	my ($node, $point, $n) = @_;
	$n //= 1;
	$node->poll_query_until('postgres', "SELECT orbit_stop_point_waiters('$point') >= $n")
	  or die "nobody stops at $point";
	return;
}

# ---- sessions -----------------------------------------------------------------------

# A session that has begun to run the statements.
sub in_background
{
	my ($node, $sql) = @_;
	my $psql = $node->background_psql('postgres', on_error_stop => 0);
	$psql->query_until(qr/begun/, "\\echo begun\n$sql;\n");
	return $psql;
}

# Waits until no session runs a statement that begins like this.
sub wait_done
{
	my ($node, $like) = @_;
	$node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '$like%'")
	  or die "$like does not end";
	return 1;
}

# ---- processes -----------------------------------------------------------------------

# What a server says that may be down; undef: it does not answer.  The question is an argument: a psql
# that cannot connect may be gone before it could be written to it, and the test with it (EPIPE).
sub ask
{
	my ($node, $sql) = @_;
	my $out = '';
	IPC::Run::run([ 'psql', '-XqAt', '-d', $node->connstr('postgres'), '-c', $sql ],
		'<', '/dev/null', '>', \$out, '2>', '/dev/null') or return;
	chomp $out;
	return $out;
}

# 0: there is none, or the server does not answer.
sub worker_pid
{
	my ($node) = @_;
	my $pid = ask($node, 'SELECT worker_pid FROM orbit_stat_storage()') // '';
	return $pid =~ /^(\d+)$/ ? $1 : 0;
}

# Waits until the server has gone down and up again, and has another worker.
sub wait_recovered
{
	my ($node, $old_worker) = @_;
	for (1 .. 20 * $timeout)
	{
		my $pid = worker_pid($node);
		return 1 if $pid && $pid != $old_worker;
		sleep 0.05;
	}
	return 0;
}

# Of the server in this data directory; undef: there is none.
sub postmaster_pid
{
	my ($data) = @_;
	open(my $fh, '<', "$data/postmaster.pid") or return;
	my $pid = <$fh>;
	close $fh;
	return unless defined $pid and $pid =~ /^(\d+)/ and kill(0, $1);
	return $1;
}

# pid => title of the server's processes.
sub children
{
	my ($postmaster) = @_;
	my %title;
	for (split /\n/, `ps -o pid=,args= --ppid $postmaster`)
	{
		$title{$1} = $2 if /^\s*(\d+)\s+(.*)$/;
	}
	return %title;
}

# SIGKILL to the postmaster and all its children, which have then left: those that still
# die hold the shared memory, and a new server would not start.
sub kill_all
{
	my ($data) = @_;
	my $postmaster = postmaster_pid($data) or return;
	# Nobody is left to take notice of the others' end.
	kill 'STOP', $postmaster;
	my %children = children($postmaster);
	my @dying = ($postmaster, keys %children);
	kill 'KILL', @dying;
	for (1 .. 100)
	{
		last unless kill 0, @dying;
		sleep 0.02;
	}
	return;
}

sub kill_all_and_start
{
	my ($node) = @_;
	kill_all($node->data_dir);
	$node->{_pid} = undef;
	for (1 .. 10 * $timeout)
	{
		return if $node->start(fail_ok => 1);
		$node->stop('immediate', fail_ok => 1);
		sleep 0.1;
	}
	die 'the server does not start';
}

# True once the test is; false after so many seconds (30).
sub eventually
{
	my ($test, $seconds) = @_;
	for (1 .. 10 * ($seconds // 30))
	{
		return 1 if $test->();
		sleep 0.1;
	}
	return 0;
}

sub write_file
{
	my ($file, $bytes) = @_;
	open(my $fh, '>:raw', $file) or die "$file: $!";
	print $fh $bytes;
	close $fh;
	return;
}

1;
