# A data directory that was copied: RocksDB is made from the newest snapshot that will do, whatever the
# copy has of others, and however often the start is cut off; where none will do, the server does not
# start and says what is wrong with each.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use OrbitNode qw(orbit_node start_is_refused kill_all in_background wait_done);

my $node = orbit_node('source', { allows_streaming => 1 }, q{autovacuum = off}, q{orbit.snapshot_keep = '1h'});

sub sql { return $node->safe_psql('postgres', shift) }
sub run_or_die { system(@_) == 0 or die "@_"; return }

sql(q{CREATE TABLE t (id int PRIMARY KEY, v text) USING orbit; INSERT INTO t SELECT g, 'row ' || g FROM generate_series(1, 1000) g; CHECKPOINT});
sql(q{INSERT INTO t SELECT g, 'row ' || g FROM generate_series(1001, 2000) g; CHECKPOINT});
my $right = '2000|2001000';
my $query = 'SELECT count(*), sum(id) FROM t';

# ---- a copy to start with ------------------------------------------------------------------------
my $copy = PostgreSQL::Test::Cluster->new('copy');
my $data = $copy->data_dir;
my $dir = "$data/orbit";
my $good = $node->basedir . '/good';

# The copy of $from, as its own server.
sub fresh
{
	my ($from) = @_;
	run_or_die('rm', '-rf', $data);
	run_or_die('cp', '-a', $from, $data);
	unlink "$data/postmaster.pid";
	$copy->append_conf('postgresql.conf', 'port = ' . $copy->port . "\nunix_socket_directories = '" . $copy->host . "'\nlisten_addresses = ''");
	return;
}

sub snapshots { return sort glob("$dir/snap-*") }
sub last_part { return $_[0] =~ s{.*/}{}r }

# Starts and has the rows.  Returns what the log says of it.
sub starts
{
	my ($name) = @_;
	my $from = -s $copy->logfile // 0;
	ok($copy->start(fail_ok => 1), "$name: starts") or return '';
	is($copy->safe_psql('postgres', $query), $right, "$name: all rows are there");
	is($copy->safe_psql('postgres', "SET enable_seqscan = off; SELECT v FROM t WHERE id = 1999"), 'row 1999', "$name: by index too");
	$copy->safe_psql('postgres', q{BEGIN; INSERT INTO t SELECT g, 'new' FROM generate_series(3001, 3500) g; ROLLBACK; CHECKPOINT});
	is($copy->safe_psql('postgres', $query), $right, "$name: also after writes");
	$copy->stop('immediate');
	$copy->start;
	is($copy->safe_psql('postgres', $query), $right, "$name: and after a crash");
	return substr(slurp_file($copy->logfile), $from);
}

sub refused
{
	my ($name, $why) = @_;
	my $from = -s $copy->logfile // 0;
	ok(start_is_refused($copy), "$name: the server does not start");
	my $log = substr(slurp_file($copy->logfile), $from);
	like($log, qr/FATAL:  no usable snapshot of RocksDB in directory "orbit"/, "$name: it says so");
	like($log, $why, "$name: and why");
	unlike($log, qr/PANIC|terminated by signal/, "$name: without a crash");
	return;
}

$node->command_ok([ 'pg_basebackup', '-D', $good, '-h', $node->host, '-p', $node->port, '--checkpoint=fast', '--no-sync', '-X', 'stream' ],
	'pg_basebackup');
ok(!-e "$good/orbit/pgsql_tmp_live", 'has not copied the live directory');

fresh($good);
my $names = join ' ', map { m{([^/]+)$} } snapshots();
my ($newest) = $names =~ /(\S+)$/;
like(starts('a plain backup'), qr/restored RocksDB storage in directory "orbit" from snapshot $newest/, 'the newest snapshot is taken');
$copy->stop;

# ---- incomplete ones ---------------------------------------------------------------------------------
# $_[0] is the newest one's directory.  What only it has is spoiled; older ones are there.
sub only_of
{
	my ($snapshot) = @_;
	my %old;
	for my $other (grep { $_ ne $snapshot } snapshots())
	{
		my $text = slurp_file("$other/SNAPSHOT");
		$old{$1} = 1 while $text =~ /^(\d+) \d+ \d+ \d+ \d+$/mg;
	}
	my @files;
	my $text = slurp_file("$snapshot/SNAPSHOT");
	while ($text =~ /^(\d+) \d+ \d+ \d+ \d+$/mg) { push @files, sprintf("$dir/sst/%06d.sst", $1) unless $old{$1} }
	return @files;
}

my %spoil = (
	'an SST file is missing' => [ sub { my ($s) = @_; my @f = only_of($s); @f = glob("$dir/sst/*") unless @f; unlink $f[0] or die }, qr/file "orbit\/sst\/\d+\.sst" is missing/ ],
	'an SST file is short' => [ sub { my ($s) = @_; my @f = only_of($s); @f = glob("$dir/sst/*") unless @f; truncate $f[0], 10 or die }, qr/file "orbit\/sst\/\d+\.sst" has 10 bytes instead of \d+/ ],
	'SNAPSHOT is damaged' => [ sub { my ($s) = @_; my $t = slurp_file("$s/SNAPSHOT"); $t =~ s/^covered 0/covered 1/m or die; open my $f, '>', "$s/SNAPSHOT"; print $f $t; close $f }, qr/file "orbit\/snap-\d+\/SNAPSHOT" is damaged/ ],
	'SNAPSHOT is missing' => [ sub { unlink "$_[0]/SNAPSHOT" or die }, qr/could not read file "orbit\/snap-\d+\/SNAPSHOT": No such file/ ],
	'SNAPSHOT is empty' => [ sub { truncate "$_[0]/SNAPSHOT", 0 or die }, qr/file "orbit\/snap-\d+\/SNAPSHOT" is damaged/ ],
	'the MANIFEST is missing' => [ sub { unlink glob("$_[0]/MANIFEST-*") or die }, qr/file "orbit\/snap-\d+\/MANIFEST-\d+" is missing/ ],
	'the MANIFEST is short' => [ sub { my ($m) = glob("$_[0]/MANIFEST-*"); truncate $m, 5 or die }, qr/file "orbit\/snap-\d+\/MANIFEST-\d+" has 5 bytes/ ],
	'CURRENT is missing' => [ sub { unlink "$_[0]/CURRENT" or die }, qr/file "orbit\/snap-\d+\/CURRENT" is missing/ ],
);
for my $how (sort keys %spoil)
{
	my ($do, $why) = @{ $spoil{$how} };
	fresh($good);
	my @all = snapshots();
	run_or_die('rm', '-rf', @all[ 0 .. $#all - 1 ]);
	$do->($all[-1]);
	refused($how, $why);
}

# an older one that will do: two more checkpoints while a backup runs
my $session = in_background($node, q{SELECT pg_backup_start('b', true)});
wait_done($node, 'SELECT pg_backup_start');
sql(q{UPDATE t SET v = v WHERE id = 5; CHECKPOINT; UPDATE t SET v = v WHERE id = 6; CHECKPOINT});
my $several = $node->basedir . '/several';
run_or_die("cp -a --no-preserve=links '" . $node->data_dir . "' '$several' 2>/dev/null || true");
$session->query_until(qr/end of label/, "\\o $several/backup_label\nSELECT labelfile FROM pg_backup_stop(false);\n\\o\n\\echo end of label\n");
$session->quit;
my $label = slurp_file("$several/backup_label");
$label =~ s/\n+\z/\n/;
open my $fh, '>', "$several/backup_label" or die;
print $fh $label;
close $fh;
run_or_die("rm -rf '$several/pg_wal' && cp -a '" . $node->data_dir . "/pg_wal' '$several/pg_wal'");
fresh($several);
ok(-e "$dir/pgsql_tmp_live/CURRENT", 'a low-level copy has a live directory, perhaps a torn one');
my @all = snapshots();
my $log = starts('a low-level copy');
my $last = last_part($all[-1]);
like($log, qr/from snapshot $last/, 'which is replaced');
is(scalar(grep { !m{\Q$all[-1]\E} && -e } @all), 0, 'other snapshots go');
$copy->stop;
for my $how (sort keys %spoil)
{
	next if $how =~ /SST/;
	fresh($several);
	@all = snapshots();
	$spoil{$how}[0]->($all[-1]);
	$log = starts("$how, and an older one is there");
	my $older = last_part($all[-2]);
	like($log, qr/from snapshot $older/, 'the older one is taken');
	like($log, $spoil{$how}[1], 'the log says why');
	$copy->stop('immediate');
}
fresh($several);
@all = snapshots();
$spoil{$_}[0]->($all[-1]), run_or_die('rm', '-rf', $all[-2], $all[-3]) for 'CURRENT is missing';
refused('what is left is too old', qr/is complete up to [0-9A-F]+\/[0-9A-F]+ only, but replay begins at/);

# ---- killed while it restores ----------------------------------------------------------------------
for my $point ('restore-after-links', 'restore-after-live', 'restore-before-rename', 'restore-after-rename', 'snapshot-removing')
{
	fresh($several);
	{
		local $ENV{ORBIT_STOP_KILL} = $point;
		$copy->start(fail_ok => 1);
	}
	kill_all($data);
	$copy->{_pid} = undef;
	unlink "$data/postmaster.pid";
	starts("killed at $point");
	is(scalar(grep { !/pgsql_tmp_(live|stage)$/ } glob("$dir/pgsql_tmp_*")), 0, 'nothing is left over');
	$copy->stop('immediate');
}

# ---- the commit log -------------------------------------------------------------------------------
fresh($good);
rename "$data/pg_xact/0000", "$data/pg_xact/aside" or die;
start_is_refused($copy);
like(slurp_file($copy->logfile), qr/it needs the commit log of transaction \d+, but file "pg_xact\/0000" is missing/, 'a missing part of the commit log is noticed');

# ---- cold copies ----------------------------------------------------------------------------------
$node->stop;
ok(-e $node->data_dir . '/orbit/CLEAN', 'a server that was shut down names its last snapshot');
my $cold = $node->basedir . '/cold';
run_or_die('cp', '-a', $node->data_dir, $cold);
run_or_die('rm', '-rf', "$cold/orbit/pgsql_tmp_live", "$cold/orbit/pgsql_tmp_stage");
fresh($cold);
my ($clean) = slurp_file("$dir/CLEAN") =~ /^(snap-\d+)$/m;
like(starts('a cold copy without the live directory'), qr/from snapshot $clean/, 'it is taken');
ok(!-e "$dir/CLEAN", 'a running server has none');
$copy->stop('immediate');
fresh($cold);
unlink "$dir/CLEAN" or die;
refused('without CLEAN', qr/is complete up to .* only, but replay begins at/);

# the files of a server that crashed, without the live directory
$node->start;
sql(q{INSERT INTO t VALUES (2001, 'late'); DELETE FROM t WHERE id = 2001});
$node->stop('immediate');
run_or_die('rm', '-rf', $cold);
run_or_die('cp', '-a', $node->data_dir, $cold);
run_or_die('rm', '-rf', "$cold/orbit/pgsql_tmp_live");
fresh($cold);
starts('the copy of a crashed server without the live directory');
$copy->stop;
fresh($cold);
run_or_die('rm', '-rf', glob("$dir/snap-*"));
refused('no snapshot at all', qr/holds no snapshot/);
fresh($cold);
run_or_die('rm', '-rf', $dir);
$copy->start;
isnt($copy->psql('postgres', $query), 0, 'a copy without any of the directory does not give an empty table');
$copy->stop('immediate');
done_testing();
