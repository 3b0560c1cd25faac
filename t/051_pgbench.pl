# kill -9 under pgbench's TPC-B with foreign keys, of which three tables are small and all
# rows of one are updated by everybody.  After each restart the balances of accounts,
# tellers, branches and history are the same, history has all transactions that pgbench
# was told of, and indexes have all rows.
#
#   ORBIT_KILLS=200    more of it (6 by default)
#   ORBIT_SEED=5       another order of kills
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use Test::More;
use Time::HiRes qw(sleep);
use OrbitKill;
use OrbitNode qw(orbit_node);

my $kills = $ENV{ORBIT_KILLS} // 6;
my $clients = 12;
srand($ENV{ORBIT_SEED} // 1);

my $node = orbit_node('bench', 'fsync = off', 'max_wal_size = 64MB', 'restart_after_crash = on');
my $server = OrbitKill->new($node);
my $db = $node->connstr('postgres');

$server->start;
IPC::Run::run([ 'pgbench', '-i', '-q', '-I', 'dtgpf', '-s', 1, $db ], '>', '/dev/null', '2>', '/dev/null') or $server->give_up('pgbench -i');
# Updates of these make new rows.
$server->query('CREATE EXTENSION amcheck; CREATE INDEX ON pgbench_tellers (tbalance); CREATE INDEX ON pgbench_history (aid); CREATE INDEX ON pgbench_accounts (abalance) WHERE aid % 3 = 0');
is($server->query(q{SELECT string_agg(DISTINCT amname, ',') FROM pg_class c JOIN pg_am a ON a.oid = relam WHERE relname LIKE 'pgbench%' AND relkind = 'r'}),
	'orbit', 'the tables are orbit tables');
is($server->query(q{SELECT count(*) FROM pg_constraint WHERE contype = 'f'}), 5, 'with foreign keys');

# Differences of the sums to that of history; rows; rows whose branch another row does not have.
my $same = q{SELECT sum(delta) - (SELECT sum(abalance) FROM pgbench_accounts), sum(delta) - (SELECT sum(tbalance) FROM pgbench_tellers),
	sum(delta) - (SELECT sum(bbalance) FROM pgbench_branches), (SELECT count(*) FROM pgbench_accounts), (SELECT count(*) FROM pgbench_tellers),
	(SELECT count(*) FROM pgbench_branches) FROM (SELECT coalesce(sum(delta), 0) AS delta FROM pgbench_history) h};
# Rows that an index finds and a scan does not, or the other way round.
my $by_index = q{SET enable_seqscan = off; SET enable_bitmapscan = off;
	SELECT count(*) FROM pgbench_history h WHERE NOT EXISTS (SELECT FROM pgbench_accounts a WHERE a.aid = h.aid) OR NOT EXISTS (SELECT FROM pgbench_tellers t WHERE t.tid = h.tid);
	SELECT sum(abalance) - (SELECT coalesce(sum(delta), 0) FROM pgbench_history WHERE aid > 0) FROM pgbench_accounts WHERE aid > 0; RESET ALL};
my $indexes = q{SELECT count(bt_index_check(c.oid, true)) FROM pg_class c JOIN pg_index i ON indexrelid = c.oid WHERE relname LIKE 'pgbench%'};

my $transactions = 0;    # that pgbench was told of

sub check
{
	my ($title, $told) = @_;
	my ($same, $by_index, $indexes, $history) = $server->queries($same, $by_index, $indexes, 'SELECT count(*) FROM pgbench_history');
	is($same, '0,0,0,100000,10,1', "$title: balances");
	is($by_index, "0\n0", "$title: and by index");
	is($indexes, 6, "$title: indexes");
	my $missing = $transactions + $told - $history;
	ok($missing <= 0 && $missing >= -$clients, "$title: $told transactions")
	  or diag("pgbench was told of $transactions and $told transactions, there are $history");
	$transactions = $history;
	$server->give_up('no more kills: the next ones would hide the cause') unless Test::More->builder->is_passing;
	return;
}

my @modes = qw(all worker backend postmaster);
my $done = 0;
while ($done < $kills)
{
	my $mode = $modes[ $done % @modes ];
	my $out = '';
	my $run = IPC::Run::start([ 'pgbench', '-n', '-c', $clients, '-j', 2, '-T', 60, '-M', ('simple', 'extended', 'prepared')[ rand 3 ], $db ],
		'>&', \$out, IPC::Run::timeout(120));
	sleep 0.5 + rand 1.5;
	$server->kill_some($mode);
	$run->finish;
	my ($told) = $out =~ /number of transactions actually processed: (\d+)/ or diag($out);
	my $again = $server->recover($mode);
	$done += 1 + $again;
	check("kill $done: $mode" . ($again ? ', again in recovery' : ''), $told);
}
cmp_ok($transactions, '>', 20 * $kills, "pgbench did something: $transactions transactions");
ok($server->stop, 'clean stop');
$server->start;
check('after a clean stop and start', 0);
$server->stop;
done_testing();
