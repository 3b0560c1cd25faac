# A disk that is really full: RocksDB's directory lies in a small file system (ORBIT_SMALL_DISK; `make
# fault-test` makes one), which is filled up so that another thing fails each time.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use OrbitNode qw(orbit_node in_background wait_done worker_pid kill_all_and_start start_is_refused);
use OrbitPair qw(create_pair pair_is_same);

my $disk = $ENV{ORBIT_SMALL_DISK} or die 'ORBIT_SMALL_DISK is not set: run make fault-test';

my $node = orbit_node('small', 'autovacuum = off', q{orbit.flush_interval = '500ms'}, q{checkpoint_timeout = '1h'},
	'max_wal_size = 1GB', q{orbit.reclaim_delay = 0}, q{orbit.reclaim_threshold = 0}, q{orbit.collect_interval = '200ms'}, q{orbit.snapshot_keep = '1s'},
	'log_statement = none', 'log_error_verbosity = verbose', 'restart_after_crash = on');
create_pair($node);
my $data = $node->data_dir;

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub same
{
	pair_is_same($node, $_[0]) or BAIL_OUT('the next tests would hide the cause');
	return;
}

$node->stop;
system('mv', "$data/orbit", "$disk/orbit") == 0 or die 'mv';
symlink("$disk/orbit", "$data/orbit") or die "symlink: $!";
$node->start;
sql('CALL churn(1, 800, 1500, 1); SELECT orbit_flush()');
same('in the small file system');

# All but this many bytes.
sub fill
{
	my ($room) = @_;
	open(my $fh, '>>:raw', "$disk/filler") or die "filler: $!";
	my $block = "\0" x 4096;
	1 while (syswrite($fh, $block) // 0) == 4096;
	my $size = -s "$disk/filler";
	truncate($fh, $size > $room ? $size - $room : 0);
	close $fh;
	return;
}

sub give_back { unlink("$disk/filler"); return }

my $no_space = qr/53100: could not flush a write buffer: .*No space left on device/;
my $worker = worker_pid($node);
my $met = 0;
for my $round (1 .. 12)
{
	my $room = ($round - 1) * 12288;
	my $from = -s $node->logfile;
	my @writers = map { in_background($node, "CALL churn($_ * 400 + 1, $_ * 400 + 400, 100000, $round * 10 + $_)") } 0, 1;
	sleep 0.3;
	fill($room);
	for (1 .. 600)
	{
		# compactions give back space for a while, and take it again
		fill(0) if $_ % 20 == 0;
		last if $node->log_contains($no_space, $from);
		sleep 0.1;
	}
	$met += ok($node->log_contains($no_space, $from), "round $round, $room bytes left: the log says so");
	$node->poll_query_until('postgres', q{SELECT count(*) = 3 FROM orbit_stat_write_buffers() WHERE state <> 'free'})
	  or die 'the write buffers do not fill';
	same("round $round: rows can be read");
	if ($round % 4 == 0)
	{
		# there may be too little to open RocksDB with; then nothing changes
		$node->stop('immediate');
		eval { $_->quit } for @writers;
		my $refused = start_is_refused($node, 10);
		note($refused ? 'refused' : 'started');
		if (!$refused) { $node->stop('immediate', fail_ok => 1) }
		give_back();
		$node->start;
		same("round $round: after a crash and a start on a full disk");
		$worker = worker_pid($node);
	}
	else
	{
		give_back();
		ok($node->wait_for_log(qr/RocksDB can be written again/, $from), "round $round: with space it goes on");
		sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'CALL churn%' AND pid <> pg_backend_pid()});
		wait_done($node, 'CALL churn');
		eval { $_->quit } for @writers;
		sql('SELECT orbit_flush(); CHECKPOINT');
		same("round $round: afterwards");
		is(worker_pid($node), $worker, "round $round: the same worker");
	}
}

# shutdown
sql('CALL churn(1, 800, 100, 77)');
my $from = -s $node->logfile;
fill(0);
$node->stop('fast', fail_ok => 1);
my $orderly = !$node->log_contains(qr/PANIC/, $from);
note($orderly ? 'the last flush found room' : 'PANIC');
$node->{_pid} = undef;
give_back();
$node->start;
same('after a shutdown on a full disk');
$node->restart;
same('and an orderly one');
is(sql('SELECT count(*) FROM orbit_verify() WHERE problem IS NOT NULL'), 0, 'orbit_verify()');
$node->stop;
done_testing();
