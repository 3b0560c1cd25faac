# A server that is killed again and again, and started by hand.
#
#   my $server = OrbitKill->new($node, [wal levels]);    stops the node; from here on it is ours
#   $server->start; $server->kill_some($mode); $server->recover($mode); $server->query($sql);
#
# Modes: backend, worker, other (of PostgreSQL's own processes), postmaster, all; of a standby
# startup, walreceiver and walsender too.
package OrbitKill;

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use OrbitNode qw(postmaster_pid children kill_all);

my @servers;

sub new
{
	my ($class, $node, @levels) = @_;
	$node->stop;
	my $log = sprintf('%s/%s_killed.log', $PostgreSQL::Test::Utils::log_path, $node->name);
	my $self = bless { data => $node->data_dir, conn => $node->connstr('postgres'), log => $log,
		levels => @levels ? \@levels : [ 'minimal', 'replica' ] }, $class;
	push @servers, $self;
	return $self;
}

END
{
	local $?;
	for (@servers)
	{
		system("pg_ctl -D '$_->{data}' -m immediate -w stop >/dev/null 2>&1") if postmaster_pid($_->{data});
	}
}

# What is left in the data directory is the evidence.
sub give_up
{
	my ($self, $what) = @_;
	fail("$what; see $self->{log}");
	done_testing();
	exit 1;
}

# ---- start and stop ----------------------------------------------------------------

# With wal_level = minimal PostgreSQL does not log what is written to a new file, but syncs it at commit.
sub pg_ctl_start
{
	my ($self, $how) = @_;
	my $level = $self->{levels}[ rand @{ $self->{levels} } ];
	return system("pg_ctl -D '$self->{data}' -l '$self->{log}' -o '-c wal_level=$level' $how start >/dev/null 2>&1") == 0;
}

sub is_up
{
	my ($self) = @_;
	return system("psql -X -q -d '$self->{conn}' -c 'SELECT 1' >/dev/null 2>&1") == 0;
}

sub start
{
	my ($self) = @_;
	my $until = time + 120;
	while (1)
	{
		# Fails while processes of the killed server are still leaving, and where a server that
		# was to be killed in recovery had not yet said who it is.
		return if $self->pg_ctl_start('-w -t 100');
		return if postmaster_pid($self->{data}) and $self->is_up;
		$self->give_up('the server does not start') if time > $until;
		sleep 0.1;
	}
}

sub stop
{
	my ($self) = @_;
	return system("pg_ctl -D '$self->{data}' -m fast -w -t 100 stop >/dev/null 2>&1") == 0;
}

# ---- kills -----------------------------------------------------------------------------

my %victim = (
	backend => qr/postgres: \S+ postgres /,
	worker => qr/orbit storage worker/,
	startup => qr{postgres: startup},
	walreceiver => qr/walreceiver/,
	walsender => qr/walsender/,
	other => qr/checkpointer|walwriter|background writer|autovacuum worker/);

sub kill_one
{
	my ($postmaster, $pattern, $patience) = @_;
	my $until = time + ($patience // 0);
	while (1)
	{
		my %title = children($postmaster);
		my @pids = grep { $title{$_} =~ $pattern } sort keys %title;
		my $pid = $pids[ rand @pids ];
		return $pid if defined $pid and kill 'KILL', $pid;
		return if time >= $until;
		sleep 0.05;
	}
}

sub kill_some
{
	my ($self, $mode) = @_;
	my $postmaster = postmaster_pid($self->{data}) // $self->give_up('no postmaster');
	if ($mode eq 'all') { kill_all($self->{data}) }
	elsif ($mode eq 'postmaster') { kill 'KILL', $postmaster }
	else { kill_one($postmaster, $victim{$mode}, 20) // $self->give_up("no $mode to be killed") }
	return;
}

# Crashes during recovery, at any moment of it: of everything, or of one process that takes part.
sub crash_in_recovery
{
	my ($self) = @_;
	$self->pg_ctl_start('-W');
	sleep rand 0.25;
	my $postmaster = postmaster_pid($self->{data}) or return;
	my $pid = rand() < 0.5 ? kill_one($postmaster, qr/startup|orbit storage worker/) : undef;
	return kill_all($self->{data}) unless $pid;
	# until the postmaster has seen it
	for (1 .. 500)
	{
		last unless kill 0, $pid;
		sleep 0.01;
	}
	return;
}

# Brings the server up after a kill and the end of all sessions; the number of crashes on the way.
sub recover
{
	my ($self, $mode) = @_;
	my $again = 0;
	if ($mode =~ /postmaster|all/ or not defined postmaster_pid($self->{data}))
	{
		if (rand() < 0.3)
		{
			$self->crash_in_recovery;
			$again = 1;
		}
		$self->start;
		return $again;
	}
	my $until = time + 120;
	while (not $self->is_up)
	{
		$self->give_up('the server does not come back') if time > $until;
		# without its startup process a standby ends
		$self->start unless defined postmaster_pid($self->{data});
		sleep 0.05;
	}
	return 0;
}

# ---- SQL ----------------------------------------------------------------------------------

# Rows of all statements; "failed: ..." when one has failed.
sub query
{
	my ($self, $sql) = @_;
	my ($out, $err) = ('', '');
	my $ok = PostgreSQL::Test::Utils::run_log(
		[ 'psql', '-X', '-q', '-A', '-t', '-F', ',', '-v', 'ON_ERROR_STOP=1', '-d', $self->{conn} ],
		'<', \$sql, '>', \$out, '2>', \$err);
	diag($err) unless $ok;
	chomp $out;
	return $ok ? $out : "failed: $err";
}

# The outputs of several statements, or of groups of them, in one session.
sub queries
{
	my ($self, @sql) = @_;
	my @out = split /^;;\n/m, $self->query(join('', map { "$_;\n\\echo ;;\n" } @sql)) . "\n", -1;
	pop @out if @out > 1;    # behind the last mark
	chomp @out;
	return @out;
}

1;
