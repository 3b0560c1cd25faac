# A primary under a mixed load, a standby, and a standby of the standby, which answer
# queries and are killed again and again: any of their processes, all of them, also while they
# recover.  At the end every table is the same on all three.  Then the primary is lost,
# the first standby takes over, and the second follows it.
#
#   ORBIT_KILLS=300   more of it (20 by default)
#   ORBIT_SEED=5      another order of kills
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use POSIX qw(_exit);
use Test::More;
use Time::HiRes qw(sleep time);
use PostgreSQL::Test::Utils;
use OrbitClients;
use OrbitLoad qw(load_schema load_rows load_side held_prepare held_rows);
use OrbitKill;
use OrbitNode qw(orbit_node orbit_standby kill_all);

my $kills = $ENV{ORBIT_KILLS} // 20;
my $clients = 3;
srand($ENV{ORBIT_SEED} // 1);
my $tmp = $PostgreSQL::Test::Utils::tmp_check;

# ---- the load beside OrbitLoad's -----------------------------------------------------

my $batch = 9000;    # rows of a large transaction: more than all write buffers
my $accounts = 40;

my $mix_schema = qq{
CREATE TABLE mix_account (id int PRIMARY KEY, v bigint NOT NULL);
INSERT INTO mix_account SELECT g, 0 FROM generate_series(1, $accounts) g;
CREATE TABLE mix_doc (id int PRIMARY KEY, tags int[], p point, r int4range, h int, body text);
CREATE INDEX mix_doc_tags ON mix_doc USING gin (tags);
CREATE INDEX mix_doc_gist ON mix_doc USING gist (p);
CREATE INDEX mix_doc_range ON mix_doc USING gist (r);
CREATE INDEX mix_doc_spgist ON mix_doc USING spgist (p);
CREATE INDEX mix_doc_hash ON mix_doc USING hash (h);
CREATE INDEX mix_doc_brin ON mix_doc USING brin (id) WITH (pages_per_range = 2);
CREATE INDEX mix_doc_part ON mix_doc (h, id) WHERE h % 3 = 0;
CREATE INDEX mix_doc_expr ON mix_doc (md5(body));
CREATE MATERIALIZED VIEW mix_view AS SELECT h, count(*) AS n, max(id) AS last FROM mix_doc GROUP BY h;
CREATE TABLE mix_big (batch int, k int, body text);
CREATE INDEX mix_big_k ON mix_big (k);
CREATE FUNCTION mix_try(lo int, n int) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	FOR i IN 1 .. n LOOP
		BEGIN
			UPDATE mix_doc SET h = (h + i) % 50, body = body || 'u' WHERE id = lo + i;
			IF i % 3 = 0 THEN RAISE EXCEPTION 'undo'; END IF;
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
	END LOOP;
END \$\$;
};

sub doc_values
{
	my ($from, $n) = @_;
	return "SELECT g, ARRAY[g % 7, g % 11], point(g % 100, g % 37), int4range(g, g + g % 9 + 1), g % 50, repeat(md5(g::text), 1 + g % 4) FROM generate_series($from, $from + $n - 1) g";
}

# Sums stay zero at every isolation level.
sub account_script
{
	my @levels = ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE');
	my @locks = ('UPDATE', 'NO KEY UPDATE', 'SHARE', 'KEY SHARE');
	my $sql = "SET deadlock_timeout = '50ms';\n";
	for (1 .. $_[0])
	{
		my ($a, $b, $c) = map { 1 + int rand $accounts } 1 .. 3;
		$sql .= "BEGIN ISOLATION LEVEL $levels[ rand 3 ];\n";
		$sql .= "SELECT FROM mix_account WHERE id IN ($a, $c) FOR $locks[ rand 4 ];\n" if rand() < 0.5;
		$sql .= "UPDATE mix_account SET v = v - 5 WHERE id = $a;\n";
		$sql .= "SAVEPOINT s; UPDATE mix_account SET v = -100 WHERE id IN ($b, $c); ROLLBACK TO s;\n" if rand() < 0.4;
		$sql .= "SAVEPOINT t; SELECT FROM mix_account WHERE id = $c FOR UPDATE; RELEASE t;\n" if rand() < 0.3;
		$sql .= "UPDATE mix_account SET v = v + 5 WHERE id = $b;\n";
		$sql .= rand() < 0.15 ? "ROLLBACK;\n" : "COMMIT;\n";
	}
	return $sql;
}

sub doc_script
{
	my ($n, $first) = @_;
	my $sql = '';
	for my $i (1 .. $n)
	{
		my $from = $first + 1000 * $i;
		$sql .= "INSERT INTO mix_doc " . doc_values($from, 300) . ";\n";
		$sql .= "UPDATE mix_doc SET tags = tags || 99, h = h + 1 WHERE id % 13 = $i % 13;\n";
		$sql .= "UPDATE mix_doc SET body = body || 'v' WHERE id % 5 = $i % 5;\n";
		$sql .= "SELECT mix_try($from, 100);\n";
		$sql .= "DELETE FROM mix_doc WHERE id < $from - 3000 OR id % 17 = $i % 17;\n";
		my @more = ('VACUUM mix_doc', 'VACUUM mix_doc', 'VACUUM (FREEZE) mix_doc', 'VACUUM FULL mix_doc', 'REINDEX TABLE mix_doc',
			'REFRESH MATERIALIZED VIEW mix_view', 'DROP INDEX mix_doc_hash; CREATE INDEX CONCURRENTLY mix_doc_hash ON mix_doc USING hash (h)',
			'ALTER TABLE mix_doc ALTER body TYPE text USING upper(body)', 'CLUSTER mix_doc USING mix_doc_pkey', 'ANALYZE mix_doc',
			'BEGIN; TRUNCATE mix_doc; INSERT INTO mix_doc ' . doc_values($from, 500) . '; COMMIT',
			"ALTER TABLE mix_doc ADD COLUMN extra int DEFAULT $i; ALTER TABLE mix_doc DROP COLUMN extra",
			"CREATE TABLE mix_new AS SELECT * FROM mix_doc; DROP TABLE mix_new",
			"BEGIN; CREATE TABLE mix_new AS SELECT * FROM mix_doc; ROLLBACK");
		$sql .= $more[ rand @more ] . ";\n" for 1 .. 2;
	}
	return $sql;
}

# Each batch is there with all its rows, or with half of them, or not at all.
sub big_script
{
	my ($n, $first) = @_;
	my $sql = '';
	for my $i ($first + 1 .. $first + $n)
	{
		$sql .= "BEGIN; INSERT INTO mix_big SELECT $i, g, repeat('b', 60 + g % 60) FROM generate_series(1, $batch) g;\n";
		$sql .= "SAVEPOINT s; UPDATE mix_big SET k = -1 WHERE batch = $i AND k % 7 = 0; ROLLBACK TO s;\n" if $i % 2;
		$sql .= ($i % 3 ? 'COMMIT' : "PREPARE TRANSACTION 'big'; COMMIT PREPARED 'big'") . ";\n";
		$sql .= "DELETE FROM mix_big WHERE batch = $i - 1 AND k % 2 = 0; UPDATE mix_big SET body = 'c' || body WHERE batch = $i - 1;\n";
		$sql .= "DELETE FROM mix_big WHERE batch = $i - 3;\n";
		$sql .= "BEGIN; INSERT INTO mix_big SELECT -1, g, 'never' FROM generate_series(1, $batch) g; ROLLBACK;\n" if $i % 4 == 0;
		$sql .= 'VACUUM ' . ($i % 5 ? '' : '(FREEZE) ') . "mix_big;\n" if $i % 2 == 0;
		$sql .= "TRUNCATE mix_big;\n" if $i % 5 == 0;
	}
	return $sql;
}

# ---- the readers -----------------------------------------------------------------------

# One line for each check in a snapshot of its own: "ok", or what is wrong.  The locks come
# before the snapshot: TRUNCATE and rewrites are no more visible to older ones than heap's are.
sub reader_script
{
	my $scan = 'SET LOCAL enable_seqscan = on; SET LOCAL enable_indexscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_indexonlyscan = off;';
	my $index = 'SET LOCAL enable_seqscan = off; SET LOCAL enable_indexscan = on; SET LOCAL enable_bitmapscan = on; SET LOCAL enable_indexonlyscan = on;';
	my $pause = 'SELECT pg_sleep(CASE WHEN random() < 0.2 THEN 0.2 ELSE 0 END) \gset';
	my $rows = q{SELECT coalesce(md5(string_agg(concat_ws(',', client, seq, j, ver, length(pad)), ';' ORDER BY client, seq, j)), 'none') AS %s FROM kill_rows WHERE client > 0};
	my $docs = q{SELECT (SELECT count(*) FROM mix_doc WHERE tags @> '{3}') || ' ' || (SELECT count(*) FROM mix_doc WHERE p <@ box '(0,0),(50,20)') || ' ' ||
		(SELECT count(*) FROM mix_doc WHERE r && int4range(0, 1000000)) || ' ' || (SELECT count(*) FROM mix_doc WHERE h = 7) || ' ' ||
		(SELECT count(*) FROM mix_doc WHERE h % 3 = 0 AND h > 9) || ' ' || (SELECT count(*) FROM mix_doc WHERE id BETWEEN 0 AND 1000000000) AS %s};
	my $bigs = q{SELECT coalesce(md5(string_agg(concat_ws(',', batch, k, length(body)), ';' ORDER BY batch, k)), 'none') AS %s FROM mix_big WHERE k > -5};
	my $twice = sub {
		my ($sql, $name) = @_;
		return "$scan\n" . sprintf($sql, 'a') . " \\gset\n$pause\n$index\n" . sprintf($sql, 'b')
		  . " \\gset\nSELECT CASE WHEN :'a' = :'b' THEN 'ok' ELSE '$name by scan: ' || :'a' || ', by index: ' || :'b' END;\n";
	};
	# defined even if a conflict comes with the first query of all
	my $none = "\\set a none\n\\set b none\n";
	my $begin = 'BEGIN ISOLATION LEVEL REPEATABLE READ; LOCK TABLE';
	return $none . (<<"SQL" . "$begin mix_doc IN ACCESS SHARE MODE;\n" . $twice->($docs, 'documents') . "COMMIT;\n" . <<"BIG" . $twice->($bigs, 'batches') . "COMMIT;\n") x 6;
$begin kill_rows, kill_counter, kill_accounts IN ACCESS SHARE MODE;
SELECT CASE WHEN sum(balance) = 0 AND count(*) = 10 THEN 'ok' ELSE 'balances: ' || sum(balance) || ' in ' || count(*) END FROM kill_accounts;
SELECT CASE WHEN count(*) = 0 THEN 'ok' ELSE 'rows of the undone: ' || count(*) END FROM kill_rows WHERE seq < 0 OR ver < 0;
SELECT CASE WHEN count(*) = $clients AND bool_and(n = coalesce(m, 0)) THEN 'ok' ELSE 'counters and rows: ' || string_agg(concat_ws(' ', c.client, n, m), ', ') END
	FROM kill_counter c LEFT JOIN (SELECT client, max(seq) AS m FROM kill_rows GROUP BY 1) r USING (client);
@{[ $twice->($rows, 'rows') ]}
COMMIT;
$begin mix_account IN ACCESS SHARE MODE;
SELECT CASE WHEN sum(v) = 0 AND count(*) = $accounts THEN 'ok' ELSE 'accounts: ' || sum(v) || ' in ' || count(*) END FROM mix_account;
$pause
SELECT CASE WHEN sum(v) = 0 AND count(*) = $accounts THEN 'ok' ELSE 'accounts: ' || sum(v) || ' in ' || count(*) END FROM mix_account;
COMMIT;
SQL
$begin mix_big IN ACCESS SHARE MODE;
SELECT CASE WHEN count(*) = 0 THEN 'ok' ELSE 'batches: ' || string_agg(concat_ws(' ', batch, n), ', ') END
	FROM (SELECT batch, count(*) AS n FROM mix_big GROUP BY 1) s WHERE batch < 0 OR n NOT IN ($batch, $batch / 2);
BIG
}

# A process that runs the script again and again until it is told to stop.
sub start_reader
{
	my ($name, $conn) = @_;
	open(my $fh, '>', "$tmp/$name.sql") or die $!;
	print $fh reader_script();
	close $fh;
	my $pid = fork() // die "fork: $!";
	return $pid if $pid;
	while (!-e "$tmp/readers.stop")
	{
		system("psql -XqAt -d '$conn' -f $tmp/$name.sql >>$tmp/$name.out 2>>$tmp/$name.err");
		sleep 0.05;
	}
	_exit(0);
}

my %readers;

sub start_readers
{
	my (%conn) = @_;
	unlink "$tmp/readers.stop";
	%readers = map { $_ => start_reader("reader_$_", $conn{$_}) } keys %conn;
	return;
}

# What they saw during so many kills; a test for each.
sub end_readers
{
	my ($killed) = @_;
	open(my $fh, '>', "$tmp/readers.stop") or die $!;
	close $fh;
	for my $name (sort keys %readers)
	{
		waitpid($readers{$name}, 0);
		# psql prints what it was to keep in a variable when the connection ends behind it
		my @out = grep { !/^([0-9a-f]{32}|none|[\d ]+)$/ } split /\n/, slurp_file("$tmp/reader_$name.out");
		my @err = grep { /ERROR|FATAL|PANIC/ } split /\n/, slurp_file("$tmp/reader_$name.err");
		my $conflicts = grep { /conflict with recovery/ } @err;
		my @strange = ((grep { $_ ne 'ok' } @out), grep {
			!/conflict with recovery|current transaction is aborted|the database system is|because of crash of another|due to administrator command|due to unexpected postmaster exit/ } @err);
		ok(!@strange, sprintf('%s: %d consistent answers, %d conflicts', $name, scalar @out, $conflicts))
		  or diag(join("\n", @strange[ 0 .. ($#strange > 20 ? 20 : $#strange) ]));
		cmp_ok(scalar @out, '>', 20 + 5 * $killed, "$name was asked");
		unlink "$tmp/reader_$name.out", "$tmp/reader_$name.err";
	}
	%readers = ();
	return;
}

# ---- comparing ---------------------------------------------------------------------------

my $tables = q{SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
	WHERE relkind IN ('r', 'm') AND relpersistence = 'p' AND nspname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1};
my $indexes = q{SELECT count(bt_index_check(c.oid, true)) FROM pg_class c JOIN pg_index i ON indexrelid = c.oid JOIN pg_namespace n ON n.oid = relnamespace
	JOIN pg_am a ON a.oid = c.relam WHERE nspname = 'public' AND indisvalid AND relpersistence = 'p' AND amname = 'btree'};
my $problems = q{SELECT coalesce(string_agg(concat_ws(' ', relation, problem), '; '), 'none') FROM orbit_verify() WHERE problem IS NOT NULL};

my $waits = q{SELECT concat_ws(' | ', pid, backend_type, wait_event_type, wait_event, backend_xmin, left(query, 200)) FROM pg_stat_activity UNION ALL
	SELECT concat_ws(' | ', pid, locktype, relation, virtualxid, transactionid, mode, granted) FROM pg_locks};

# What a server holds, as lines that begin with the table's name.
sub contents
{
	my ($server) = @_;
	my @tables = split /\n/, $server->query($tables);
	my @sql = map { "SELECT '$_', count(*), md5(string_agg(t::text, ';' ORDER BY t::text COLLATE \"C\")) FROM $_ t" } @tables;
	return join("\n", $server->queries(@sql), 'indexes ' . $server->query($indexes), 'problems: ' . $server->query($problems));
}

sub replayed
{
	my ($server, $lsn) = @_;
	return 1 if OrbitNode::eventually(sub { $server->query("SELECT pg_last_wal_replay_lsn() >= '$lsn'::pg_lsn") eq 't' }, 180);
	diag("$server->{name} has not replayed everything:\n" . $server->query($waits));
	return 0;
}

# The standbys hold what the first one holds.
sub compare
{
	my ($what, $first, @others) = @_;
	my $lsn = $first->query('SELECT pg_current_wal_insert_lsn()');
	my $want = contents($first);
	like($want, qr/problems: none$/, "$what: nothing is wrong on the primary");
	for my $server (@others)
	{
		ok(replayed($server, $lsn), "$what: $server->{name} has replayed everything");
		is(contents($server), $want, "$what: $server->{name} has the same tables");
	}
	return;
}

# ---- the servers ----------------------------------------------------------------------------

my $node = orbit_node('primary', { allows_streaming => 1 }, 'fsync = off', 'max_wal_size = 64MB', 'restart_after_crash = on',
	'deadlock_timeout = 10s', 'wal_keep_size = 20GB', 'hot_standby_feedback = off',
	'wal_retrieve_retry_interval = 100ms', 'wal_receiver_status_interval = 1s', 'orbit.reclaim_threshold = 0', 'orbit.reclaim_delay = 0',
	'allow_in_place_tablespaces = on', 'log_statement = none');
$node->safe_psql('postgres', 'CREATE EXTENSION amcheck');
$node->safe_psql('postgres', load_schema($clients));
$node->safe_psql('postgres', $mix_schema);
my @nodes = (orbit_standby($node));
push @nodes, orbit_standby($nodes[0], 'cascaded');
# Not without end: where a reader waits, with a snapshot, for a table that a transaction of the primary has locked,
# and replay waits for that snapshot, neither goes on, with heap tables as with these.
$_->append_conf('postgresql.conf', "deadlock_timeout = 200ms\nmax_standby_streaming_delay = 20s") for @nodes;

my $primary = OrbitKill->new($node, 'replica');
my ($standby, $cascaded) = map { OrbitKill->new($_, 'replica') } @nodes;
($primary->{name}, $standby->{name}, $cascaded->{name}) = ('the primary', 'the standby', 'the cascaded standby');
$_->start for $primary, $standby, $cascaded;

my %count;
my $last_number = 0;    # of what scripts make that needs new numbers

sub start_mix
{
	my ($conn) = @_;
	$last_number += 100;
	return map { OrbitClients::start_psql($conn, @$_) } [ 'account1', account_script(300) ], [ 'account2', account_script(300) ],
	  [ 'doc', doc_script(8, 1000 * $last_number) ], [ 'big', big_script(5, $last_number) ];
}

sub end_mix
{
	my (@pids) = @_;
	waitpid($_, 0) for @pids;
	return grep { /ERROR|PANIC/ && !/could not serialize|deadlock detected|current transaction is aborted|savepoint "s" does not exist/ }
	  map { split /\n/, slurp_file("$tmp/$_.err") } qw(account1 account2 doc big);
}

# Kills the server in some way and brings it up again.
sub kill_and_recover
{
	my ($server) = @_;
	my @modes = qw(backend worker startup walreceiver postmaster all other all);
	my $mode = $server->{next_mode}++;
	$mode = $modes[ $mode % @modes ];
	my $checkpoint = rand() < 0.4 ? OrbitClients::start_psql($server->{conn}, 'checkpoint', "CHECKPOINT;\n") : undef;
	sleep rand 0.1 if $checkpoint;
	$server->kill_some($mode);
	my $again = $server->recover($mode);
	waitpid($checkpoint, 0) if $checkpoint;
	$count{"$server->{name}, $mode"}++;
	$count{"$server->{name}, in recovery"} += $again;
	return 1 + $again;
}

# ---- the primary and its standbys ------------------------------------------------------------

my $load = OrbitClients->new($primary->{conn}, $clients);
my ($done, $round) = (0, 0);
my $share = int($kills * 0.75);
start_readers(standby => $standby->{conn}, cascaded => $cascaded->{conn});
while ($done < $share)
{
	$round++;
	my @before = @{ $load->{last} };
	$load->start(40, 20);
	my @mix = start_mix($primary->{conn});
	$primary->query(held_prepare($round, $round - 1));
	my $until = $done + 15;
	while ($load->running or $done < $until)
	{
		$done += kill_and_recover(rand() < 0.6 ? $standby : $cascaded);
		sleep rand 0.5;
	}
	my @strange = ($load->end(300), end_mix(@mix));
	ok(!@strange, "round $round, $done kills: the load of the primary") or diag(join("\n", @strange));
	$primary->query("COMMIT PREPARED 'held'");
	compare("round $round", $primary, $standby, $cascaded);
	$standby->give_up('no more kills: the next ones would hide the cause') unless Test::More->builder->is_passing;
}
end_readers($done);

# ---- failover -----------------------------------------------------------------------------------

$primary->query(held_prepare($round + 1, $round));
my ($pids, @mix) = ($load->start(400, 10), start_mix($primary->{conn}));
sleep 2;
kill_all($primary->{data});
my @strange = ($load->end(120), grep { !/PREPARED|prepared/ } end_mix(@mix));
ok(!@strange, 'nothing but the loss of the primary ends the load') or diag(join("\n", @strange));
is($standby->query('SELECT pg_promote()'), 't', 'the standby is promoted');

my @gids = split /\n/, $standby->query(q{SELECT gid FROM pg_prepared_xacts WHERE gid <> 'held'});
$standby->query("COMMIT PREPARED '$_'") for @gids;
is($standby->query('SELECT sum(balance) FROM kill_accounts'), 0, 'balances');
my $promoted = OrbitClients->new($standby->{conn}, $clients);
for my $client (1 .. $clients)
{
	my $n = $standby->query("SELECT n FROM kill_counter WHERE client = $client");
	cmp_ok($n, '<=', $load->{last}[$client] + 1, "client $client: no transaction that was never begun");
	is($standby->query("SELECT seq, j, ver, length(pad) FROM kill_rows WHERE client = $client ORDER BY 1, 2"),
		load_rows($client, $n), "client $client: exactly the rows of $n transactions");
	is($standby->query("SELECT n, count(*), min(length(v)) FROM kill_side_$client GROUP BY n ORDER BY n"),
		load_side($client, $n), "client $client: and those of its side table");
	$promoted->{last}[$client] = $n;
}
is($standby->query('SELECT * FROM kill_held ORDER BY id'), held_rows($round), 'the prepared transaction is not there');
$standby->query("COMMIT PREPARED 'held'");
is($standby->query('SELECT * FROM kill_held ORDER BY id'), held_rows($round + 1), 'and can be committed on the new primary');
is($standby->query('SELECT count(*), min(v), max(v) FROM kill_held_side'), join(',', 50, $round + 1, $round + 1), 'with its TRUNCATE');

my $killed_before = $done;
start_readers(cascaded => $cascaded->{conn});
while ($done < $kills)
{
	$promoted->start(40, 20);
	@mix = start_mix($standby->{conn});
	while ($promoted->running)
	{
		$done += kill_and_recover($cascaded);
		sleep rand 0.5;
	}
	@strange = ($promoted->end(300), end_mix(@mix));
	ok(!@strange, "$done kills: the load of the new primary") or diag(join("\n", @strange));
	compare('new primary', $standby, $cascaded);
}
$standby->kill_some('all');
$standby->recover('all');
compare('new primary after a crash', $standby, $cascaded);
end_readers($done - $killed_before);

note("kills: $done; transactions of the load: " . eval { my $n = 0; $n += $_ for @{ $promoted->{last} }; $n });
note("  $_: $count{$_}") for sort keys %count;
$_->stop for $cascaded, $standby;
done_testing();
