# The wall clock jumps, a day back and two days on, under a running server.  Nothing that the storage worker
# does may wait for as long as the clock jumped, or be due at once: durations are taken from
# another clock.  t/lib/clock_shim.c makes the server's clock wrong.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use OrbitFaults qw(use_faults set_fault clear_faults);
use OrbitNode qw(orbit_node kill_all);
use OrbitPair qw(create_pair pair_is_same);

my $day = 86400;
my $scratch = PostgreSQL::Test::Utils::tempdir();
my $shim = "$scratch/clock_shim.so";
system('gcc', '-O1', '-shared', '-fPIC', '-o', $shim, "$FindBin::RealBin/lib/clock_shim.c", '-ldl') == 0
  or die 'clock_shim.c does not compile';

my $file = "$scratch/offset";

sub set_clock
{
	my ($seconds) = @_;
	open(my $fh, -e $file ? '+<:raw' : '>:raw', $file) or die "$file: $!";
	syswrite($fh, pack('q', $seconds)) == 8 or die "$file: $!";
	close $fh;
	return;
}

my $node = orbit_node('clock', 'autovacuum = off', q{orbit.flush_interval = '300ms'}, q{orbit.reclaim_delay = '200ms'},
	q{orbit.reclaim_threshold = 0}, q{orbit.collect_interval = '200ms'}, q{orbit.snapshot_keep = '1h'}, q{checkpoint_timeout = '1h'},
	'log_statement = none', 'fsync = off');
use_faults($node);
create_pair($node);

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub start_with_clock
{
	local $ENV{ORBIT_CLOCK_FILE} = $file;
	local $ENV{LD_PRELOAD} = $shim;
	$node->start;
	return;
}

# Within so many seconds, of a clock that is right.
sub soon
{
	my ($query, $what) = @_;
	my $begin = time;
	my $yes = 'f';
	while (time < $begin + 40)
	{
		$yes = sql("SELECT $query");
		last if $yes eq 't';
		sleep 0.1;
	}
	return is($yes, 't', $what);
}

$node->stop;
set_clock(0);
start_with_clock();
sql('CALL churn(1, 400, 600, 1); CHECKPOINT');

my ($seed, $tables) = (1, 0);

# Everything that goes by time.
sub goes_on
{
	my ($what) = @_;
	$seed++;
	my ($flushes, $jobs) = split /\|/, sql('SELECT flushes, jobs FROM orbit_stat_storage(), orbit_stat_reclaim()');
	sql("CALL churn(1, 400, 100, $seed)");
	soon("flushes > $flushes FROM orbit_stat_storage()", "$what: the age of rows lets them be flushed");
	soon("jobs > $jobs FROM orbit_stat_reclaim()", "$what: files are compacted");
	my $storages = sql('SELECT count(*) FROM orbit_storages()');
	sql('CREATE TABLE gone (i int) USING orbit; INSERT INTO gone VALUES (1); DROP TABLE gone');
	soon("count(*) = $storages FROM orbit_storages()", "$what: dropped tables are found");
	my ($rc, $out, $err) = $node->psql('postgres', q{SET statement_timeout = '30s'; CHECKPOINT});
	is($rc, 0, "$what: a checkpoint ends") or diag($err);
	pair_is_same($node, "$what: rows");
	return;
}

goes_on('before');
my $now = sql('SELECT clock_timestamp()');
set_clock(-$day);
is(sql("SELECT clock_timestamp() < timestamptz '$now' - interval '23 hours'"), 't', 'the server sees a day less');
goes_on('a day back');

# Back once more in the middle of tries that fail.
my $from = -s $node->logfile;
set_fault($node, 'worker', 'write', '*stage/*.sst', 'enospc');
sql('CALL churn(1, 400, 30, 77)');
ok($node->wait_for_log(qr/could not flush a write buffer/, $from), 'a flush fails');
set_clock(-2 * $day);
sleep 0.5;
clear_faults($node);
my $begin = time;
$node->wait_for_log(qr/RocksDB can be written again/, $from);
cmp_ok(time - $begin, '<', 20, 'and is tried again soon, though the clock went back');

kill_all($node->data_dir);
$node->{_pid} = undef;
start_with_clock();
goes_on('after a crash');

# On: what is to be kept for an hour is not two days old at once.
sql('INSERT INTO r VALUES (8000 + ' . $_ . ", 1, 1, 'x'); INSERT INTO h VALUES (8000 + $_, 1, 1, 'x'); CHECKPOINT") for 1 .. 4;
my $snapshots = sql('SELECT count(*) FROM orbit_snapshots()');
cmp_ok($snapshots, '>=', 4, 'snapshots are kept for an hour');
set_clock(2 * $day);
sleep 3;
cmp_ok(sql('SELECT count(*) FROM orbit_snapshots()'), '>=', $snapshots, 'also when the clock goes on by days');
goes_on('on by days');

set_clock(0);
goes_on('right again');
$node->restart;
pair_is_same($node, 'after an orderly restart');
$node->stop;
done_testing();
