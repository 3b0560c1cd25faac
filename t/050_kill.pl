# kill -9 under load: of a backend, of the storage worker, of other processes of
# the server, of the postmaster, of all at once, and again during recovery.  After
# each restart every acknowledged commit is there, an unacknowledged one is there
# wholly or not at all, and nothing else is.  See t/lib/OrbitLoad.pm for the load.
#
#   ORBIT_KILLS=2000   more of it (60 by default)
#   ORBIT_SEED=5       another order of kills
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use Time::HiRes qw(sleep time);
use PostgreSQL::Test::Utils;
use OrbitClients;
use OrbitLoad qw(load_schema load_rows load_side held_prepare held_rows);
use OrbitKill;
use OrbitNode qw(orbit_node);

my $kills = $ENV{ORBIT_KILLS} // 60;
my $clients = 4;
my $batch = 400;     # transactions a client is given; more than it can do in a cycle
srand($ENV{ORBIT_SEED} // 1);

my $node = orbit_node('kill', 'fsync = off', 'max_wal_size = 64MB', 'restart_after_crash = on',
	q{log_min_messages = 'log'}, 'deadlock_timeout = 10s');
$node->safe_psql('postgres', 'CREATE EXTENSION amcheck');
$node->safe_psql('postgres', load_schema($clients));
is($node->safe_psql('postgres', q{SELECT string_agg(DISTINCT amname, ',') FROM pg_class c JOIN pg_am a ON a.oid = relam WHERE relname LIKE 'kill%' AND relkind = 'r'}),
	'orbit', 'the tables are orbit tables');
my $server = OrbitKill->new($node);
my $load = OrbitClients->new($node->connstr('postgres'), $clients);
my $last = $load->{last};
my ($held, $held_committed) = (0, 0);    # number of the transaction that lasts, 0: none; last one committed
my $held_number = 0;

# ---- the check -------------------------------------------------------------------------

my $by_scan = 'SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off; RESET enable_seqscan';
my $by_index = 'RESET enable_indexscan; SET enable_bitmapscan = off; SET enable_indexonlyscan = off; SET enable_seqscan = off';
my $sums = q{SELECT (SELECT sum(balance) FROM kill_accounts), (SELECT count(*) FROM kill_accounts), (SELECT count(*) FROM kill_rows WHERE seq < 0 OR ver < 0), (SELECT count(*) FROM kill_counter)};
my $indexes = q{SELECT count(bt_index_check(c.oid, true)) > 0 FROM pg_class c JOIN pg_index i ON indexrelid = c.oid WHERE relname LIKE 'kill%' AND indisvalid};

sub check_client
{
	my ($client, $n, @got) = @_;
	return "client $client: transaction $last->[$client] was acknowledged, the table is at $n"
	  unless $n =~ /^\d+$/ and ($n == $last->[$client] or $n == $last->[$client] + 1);
	my @want = (load_rows($client, $n), load_side($client, $n));
	my @bad;
	for my $i (0 .. 3)
	{
		next if $got[$i] eq $want[ $i % 2 ];
		push @bad, sprintf("client %d at %d: %s by %s\n%s\nand not\n%s", $client, $n, ('rows', 'side table')[ $i % 2 ],
			('scan', 'index')[ $i / 2 ], $got[$i], $want[ $i % 2 ]);
	}
	$last->[$client] = $n;
	return @bad;
}

# What a prepared transaction has done is not there, and it holds its locks.
sub check_held
{
	my ($rows, $free) = @_;
	my @bad;
	push @bad, "kill_held: $rows and not " . held_rows($held_committed) if $rows ne held_rows($held_committed);
	push @bad, $held ? 'a lock of a prepared transaction is lost' : 'a lock is left of a prepared transaction' if $free ne ($held ? '' : '1');
	if ($held and rand() < 0.3)
	{
		my $commit = rand() < 0.5;
		$server->query(($commit ? 'COMMIT' : 'ROLLBACK') . " PREPARED 'held'");
		$held_committed = $held if $commit;
		$held = 0;
		my ($all, $side) = $server->queries('SELECT * FROM kill_held ORDER BY id', 'SELECT count(*), min(v), max(v) FROM kill_held_side');
		my $want = $held_committed ? "50,$held_committed,$held_committed" : '0,,';
		push @bad, "kill_held after the end of the prepared transaction: $all, $side" if $all ne held_rows($held_committed) or $side ne $want;
	}
	elsif (not $held and rand() < 0.3)
	{
		$held = ++$held_number;
		$server->query(held_prepare($held, $held_committed));
	}
	return @bad;
}

# crashed: the server has not been shut down.
sub check
{
	my ($crashed) = @_;
	my @gids = split /\n/, $server->query(q{SELECT gid FROM pg_prepared_xacts WHERE gid LIKE 'kill%'});
	$server->queries(map { (rand() < 0.5 ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$_'" } @gids) if @gids;

	my @sql = ($sums, 'SELECT count(*) FROM kill_unlogged', 'SELECT * FROM kill_held ORDER BY id',
		'SELECT id FROM kill_held WHERE id = 1 FOR UPDATE SKIP LOCKED', $indexes);
	for my $client (1 .. $clients)
	{
		my $rows = "SELECT seq, j, ver, length(pad) FROM kill_rows WHERE client = $client ORDER BY 1, 2";
		my $side = "SELECT n, count(*), min(length(v)) FROM kill_side_$client WHERE n > -1000000000 GROUP BY n ORDER BY n";
		push @sql, "SELECT n FROM kill_counter WHERE client = $client", "$by_scan; $rows", $side, "$by_index; $rows", $side;
	}
	my ($sums, $unlogged, $held_rows, $free, $indexes, @clients) = $server->queries(@sql);
	return "a query failed: $sums" unless @clients == 5 * $clients;
	my @bad;
	push @bad, "sum of balances, accounts, rows of the undone, counters: $sums" if $sums ne "0,10,0,$clients";
	push @bad, "unlogged rows: $unlogged" if $crashed and $unlogged ne '0';
	push @bad, "amcheck: $indexes" if $indexes ne 't';
	push @bad, check_client($_, splice @clients, 0, 5) for 1 .. $clients;
	push @bad, check_held($held_rows, $free);
	return @bad;
}

my @modes = qw(backend worker postmaster all backend worker all other);
my ($done, $transactions) = (0, 0);
$server->start;
my $compactions = 0;
while ($done < $kills)
{
	# in the second half files are compacted at random, all the time
	if ($done >= $kills / 2 and not $compactions++)
	{
		$server->query($_) for 'ALTER SYSTEM SET orbit.reclaim_threshold = 0',
		  'ALTER SYSTEM SET orbit.reclaim_delay = 0', 'SELECT pg_reload_conf()';
	}
	my $mode = $modes[ $done % @modes ];
	my @before = @$last;
	$load->start($batch);
	sleep 0.1 + rand 0.8;
	$server->kill_some($mode);
	my @strange = $load->end(60);
	my $again = $server->recover($mode);
	$done += 1 + $again;
	$again = $again ? ', again in recovery' : '';
	my @bad = (@strange, check(1));
	$transactions += $last->[$_] - $before[$_] for 1 .. $clients;
	ok(!@bad, "kill $done: $mode$again, transactions " . join(' ', @$last[ 1 .. $clients ])) or diag(join("\n", @bad));
	$server->give_up('no more kills: the next ones would hide the cause') if @bad;
}
cmp_ok($transactions, '>', 10 * $kills, "the load did something: $transactions transactions");

$server->query('INSERT INTO kill_unlogged SELECT 0, generate_series(1, 5000)');
ok($server->stop, 'clean stop');
$server->start;
my @bad = check(0);
ok(!@bad, 'the same after a clean stop and start') or diag(join("\n", @bad));
is($server->query('SELECT count(*) FROM kill_unlogged'), 5000, 'and unlogged rows are there');
$server->stop;
done_testing();
