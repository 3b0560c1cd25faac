# VACUUM: dead rows leave the indexes and then the files; relfrozenxid advances as far as the files
# prove and never past a transaction that still runs; kill -9 in each of its steps; autovacuum
# against wraparound under load.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = orbit_node('main', q{orbit.write_buffer_size = '1MB'}, q{autovacuum = off},
	q{autovacuum_freeze_max_age = 100000}, q{vacuum_freeze_table_age = 50000},
	q{vacuum_freeze_min_age = 1000}, q{restart_after_crash = on});

sub sql { return $node->safe_psql('postgres', shift) }

sql(q{
CREATE EXTENSION amcheck;
CREATE TABLE t (id int PRIMARY KEY, v int, pad text) USING orbit;
CREATE INDEX t_v ON t (v);
});

# A subtransaction gets an xid only when it writes: each of these does.
sql(q{
CREATE TABLE ash (x int) USING heap;
CREATE FUNCTION burn(n int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..n LOOP
		BEGIN
			INSERT INTO ash VALUES (i);
			RAISE EXCEPTION 'x';
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
	END LOOP;
END $$;
});

# What is live is the same by every path, and the indexes fit the table.
sub sound
{
	my ($what) = @_;
	is( sql(q{
			SET enable_seqscan = off; SELECT count(*), sum(id), sum(v) FROM t WHERE id > 0;
			SET enable_seqscan = on; SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;
			SELECT count(*), sum(id), sum(v) FROM t WHERE id > 0;
		}) =~ s/^(.*)\n\1$/same/sr, 'same', "$what: the same by index and by scan");
	is(sql(q{SELECT bt_index_check('t_pkey', true), bt_index_check('t_v', true)}), '|', "$what: amcheck");
	is(sql(q{SELECT count(*) FROM orbit_verify('t') WHERE problem IS NOT NULL}), 0, "$what: orbit_verify()");
	return;
}

sub index_entries { return sql(q{VACUUM t; SELECT reltuples FROM pg_class WHERE relname = 't_pkey'}) }

# ---- rows go from the files, too
sql(q{INSERT INTO t SELECT g, g % 100, repeat('x', 100) FROM generate_series(1, 20000) g; SELECT orbit_flush()});
sql('DELETE FROM t WHERE id % 10 <> 0');
is(index_entries(), 2000, 'the index has entries of the live rows only');
sound('after VACUUM');
# pages of dead rows alone vanish once the record of VACUUM is known and a compaction has met them
$node->append_conf('postgresql.conf', q{orbit.reclaim_delay = '1s'});
$node->reload;
my $pages = sql(q{SELECT pages FROM orbit_verify('t')});
sql('DELETE FROM t WHERE id <= 10000; VACUUM t; SELECT orbit_flush()');
my $until = time + 30;
while (time < $until and sql(q{SELECT pages FROM orbit_verify('t')}) > $pages * 0.6)
{
	sql('UPDATE t SET pad = pad WHERE id = 20000; SELECT orbit_flush()');
	sleep 0.5;
}
cmp_ok(sql(q{SELECT pages FROM orbit_verify('t')}), '<=', $pages * 0.6, "of $pages pages those without live rows are gone");
$node->append_conf('postgresql.conf', q{orbit.reclaim_delay = '1min'});
$node->reload;
sound('after compaction');

# ---- relfrozenxid
sub age { return sql(q{SELECT age(relfrozenxid) FROM pg_class WHERE relname = 't'}) }
sql('SELECT burn(3000)');
cmp_ok(age(), '>', 3000, 'the table grows old');
sql('VACUUM (FREEZE) t');
cmp_ok(age(), '<', 1000, 'VACUUM FREEZE makes it young (' . age() . ')');
sql(q{BEGIN; UPDATE t SET v = v + 1 WHERE id = 20000; PREPARE TRANSACTION 'old'});
my $old = sql(q{SELECT transaction FROM pg_prepared_xacts});
sql('SELECT burn(2000)');
sql('VACUUM (FREEZE) t');
cmp_ok(sql(q{SELECT relfrozenxid FROM pg_class WHERE relname = 't'}), '<=', $old, 'not past a prepared transaction');
$node->stop('immediate');
$node->start;
sql('VACUUM (FREEZE) t');
cmp_ok(sql(q{SELECT relfrozenxid FROM pg_class WHERE relname = 't'}), '<=', $old, 'nor after a crash');
sql(q{ROLLBACK PREPARED 'old'});
sql('SELECT burn(10)');
my $n = 0;
sql('VACUUM (FREEZE) t') while (age() >= 1000 and $n++ < 20);
cmp_ok(age(), '<', 1000, 'when it is gone the limit moves on');
sound('after freezing');

# ---- kill -9 in each step
for my $point ('vacuum-before-indexes', 'vacuum-after-indexes', 'vacuum-before-freeze')
{
	sql('INSERT INTO t SELECT g, g % 100 FROM generate_series(30001, 30500) g');
	sql('DELETE FROM t WHERE id BETWEEN 30001 AND 30400');
	sql("SELECT orbit_stop_point_set('$point', 'kill', 0)");
	$node->psql('postgres', 'VACUUM (FREEZE) t');
	$node->poll_query_until('postgres', 'SELECT true') or die 'the server does not come back';
	sound("killed at $point");
	is(sql('SELECT count(*) FROM t WHERE id > 30000'), 100, "killed at $point: the live rows");
	sql('DELETE FROM t WHERE id > 30000');
	sql('VACUUM t');
	is(index_entries(), sql('SELECT count(*) FROM t'), "killed at $point: the next VACUUM does it all");
}

# ---- against wraparound, by autovacuum, under load
$node->append_conf('postgresql.conf', "autovacuum = on\nautovacuum_naptime = 1s\nautovacuum_vacuum_cost_delay = 0\n");
$node->reload;
my $load = IPC::Run::start(
	[ 'pgbench', '-n', '-c', '2', '-T', '12', '-f', '-', '-h', $node->host, '-p', $node->port, 'postgres' ],
	'<', \"\\set i random(10001, 20000)\nUPDATE t SET v = v + 1 WHERE id = :i;\n", '>', \my $out, '2>', \my $err);
sql('SELECT burn(30000)') for 1 .. 5;
ok($node->poll_query_until('postgres', q{SELECT age(relfrozenxid) < 100000 FROM pg_class WHERE relname = 't'}),
	'autovacuum has frozen the table while it was written');
$load->finish;
unlike($err, qr/ERROR|FATAL/, 'the load was not disturbed');
sound('after autovacuum');
ok($node->poll_query_until('postgres', q{SELECT max(age(datfrozenxid)) < 130000 FROM pg_database WHERE datallowconn}), 'datfrozenxid follows');
$node->stop('immediate');
$node->start;
sound('after a crash');
$node->stop;
done_testing();
