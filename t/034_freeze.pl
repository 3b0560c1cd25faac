# What a flush leaves out of a row's history, and what it must not: versions
# behind one that everybody sees go, versions that a snapshot or a running
# transaction needs stay, and so do locks of running and prepared transactions.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node);
use PostgreSQL::Test::Utils;
use Test::More;

my $node = orbit_node('main', q{orbit.write_buffer_size = '4MB'}, q{orbit.flush_interval = '1h'},
	q{autovacuum = off}, q{deadlock_timeout = '100ms'});

sub sql { return $node->safe_psql('postgres', shift) }

sql('CREATE EXTENSION dblink');
my $connection = 'host=' . $node->host . ' port=' . $node->port . ' dbname=postgres';

sql(q{
CREATE TABLE hot (id int PRIMARY KEY, n int, pad text) USING orbit;
INSERT INTO hot SELECT g, 0, repeat('x', 200) FROM generate_series(1, 10) g;
CREATE TABLE child (id serial, hot int REFERENCES hot) USING orbit;
CREATE FUNCTION churn(rounds int) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..rounds LOOP
		UPDATE hot SET n = n + 1;
	END LOOP;
END $$;
CREATE PROCEDURE churn_committing(rounds int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..rounds LOOP
		UPDATE hot SET n = n + 1;
		COMMIT;
	END LOOP;
END $$;
});

sub bytes_flushed { return sql('SELECT bytes_flushed FROM orbit_stat_storage()') }

# 200 versions of ten rows of 200 bytes are 400 kB.
sql('SELECT orbit_flush()');
my $before = bytes_flushed();
sql('CALL churn_committing(200)');
sql('SELECT orbit_flush()');
my $written = bytes_flushed() - $before;
cmp_ok($written, '<', 40_000, "200 committed versions of 10 rows become one each ($written bytes)");
is(sql('SELECT min(n), max(n), count(*) FROM hot'), '200|200|10', 'the newest is there');
$node->stop('immediate');
$node->start;
is(sql('SELECT min(n), max(n), count(*) FROM hot'), '200|200|10', 'and after a crash');

# A snapshot keeps what it sees, over flushes of what came later.
is( sql(qq{
		SELECT dblink_connect('old', '$connection');
		SELECT dblink_exec('old', 'BEGIN ISOLATION LEVEL REPEATABLE READ');
		SELECT * FROM dblink('old', 'SELECT sum(n) FROM hot') AS t(s int);
		CALL churn_committing(50);
		SELECT orbit_flush();
		CALL churn_committing(50);
		SELECT orbit_flush();
		SELECT * FROM dblink('old', 'SELECT sum(n), count(*) FROM hot') AS t(s int, c int);
		SELECT * FROM dblink('old', 'SELECT n FROM hot WHERE id = 3') AS t(n int);
		SELECT dblink_disconnect('old');
		SELECT sum(n) FROM hot;
	}),
	"OK\nBEGIN\n2000\n\n\n2000|10\n200\nOK\n3000", 'an old snapshot sees its versions');

# So does a transaction with its own updates: OLD and NEW of deferred triggers.
sql(q{
CREATE TABLE log (old_n int, new_n int);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO log VALUES (OLD.n, NEW.n);
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER note AFTER UPDATE ON hot DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION note();
BEGIN;
SELECT churn(20);
SELECT orbit_flush();
SELECT churn(20);
SELECT orbit_flush();
COMMIT;
});
is(sql('SELECT count(*), min(old_n), max(new_n), bool_and(new_n = old_n + 1) FROM log'),
	'40|300|340|t', 'OLD and NEW of deferred triggers over flushes');
sql('DROP TRIGGER note ON hot');

# A rolled back update is no reason to freeze or to forget.
sql('BEGIN; SELECT churn(5); SELECT orbit_flush(); ROLLBACK; SELECT orbit_flush(); SELECT churn(1); SELECT orbit_flush()');
is(sql('SELECT min(n), max(n), count(*) FROM hot'), '341|341|10', 'after a rollback');

# A key share lock below later, committed, flushed updates still holds back a delete.
sub locked_row_resists
{
	my ($hold, $release, $name) = @_;
	sql('DELETE FROM child');
	my $out = sql(qq{
		SELECT dblink_connect('locker', '$connection');
		$hold
		SELECT orbit_flush();
		CALL churn_committing(60);
		SELECT orbit_flush();
		CALL churn_committing(60);
		SELECT orbit_flush();
		SELECT dblink_connect('deleter', '$connection');
		SELECT dblink_exec('deleter', 'SET lock_timeout = ''300ms''');
		SELECT dblink_exec('deleter', 'DELETE FROM hot WHERE id = 7', false);
		SELECT dblink_error_message('deleter');
		$release
		SELECT dblink_disconnect('locker');
		SELECT dblink_disconnect('deleter');
	});
	like($out, qr/lock timeout/, "$name: the delete has to wait");
	is(sql('SELECT count(*) FROM hot WHERE id = 7'), '1', "$name: the row is there");
}

locked_row_resists(
	q{SELECT dblink_exec('locker', 'BEGIN'); SELECT dblink_exec('locker', 'INSERT INTO child (hot) VALUES (7)');},
	q{SELECT dblink_exec('locker', 'COMMIT');},
	'a foreign key of a running transaction');
# The lock is flushed first; then an update by a transaction that is older than the locker, and
# so could be frozen while the locker runs, commits and is flushed on top of it.
locked_row_resists(
	qq{SELECT dblink_connect('older', '$connection');
	  SELECT dblink_exec('older', 'BEGIN');
	  SELECT * FROM dblink('older', 'SELECT pg_current_xact_id() IS NOT NULL') AS t(b bool);
	  SELECT dblink_exec('locker', 'BEGIN'); SELECT dblink_exec('locker', 'INSERT INTO child (hot) VALUES (7)');
	  SELECT orbit_flush();
	  SELECT dblink_exec('older', 'UPDATE hot SET n = n + 1');
	  SELECT dblink_exec('older', 'COMMIT');
	  SELECT dblink_disconnect('older');},
	q{SELECT dblink_exec('locker', 'COMMIT');},
	'an update older than the locker');
locked_row_resists(
	q{SELECT dblink_exec('locker', 'BEGIN'); SELECT dblink_exec('locker', 'INSERT INTO child (hot) VALUES (7)');
	  SELECT dblink_exec('locker', 'PREPARE TRANSACTION ''p''');},
	q{},
	'a prepared transaction');
$node->restart;
sql('CALL churn_committing(60); SELECT orbit_flush(); CALL churn_committing(60); SELECT orbit_flush()');
my ($rc, $out, $err) = $node->psql('postgres', q{SET lock_timeout = '300ms'; DELETE FROM hot WHERE id = 7});
like($err, qr/lock timeout/, 'a prepared transaction: also over a restart');
sql(q{COMMIT PREPARED 'p'});
($rc, $out, $err) = $node->psql('postgres', 'DELETE FROM hot WHERE id = 7');
like($err, qr/violates foreign key constraint/, 'committed: the foreign key decides');

# Deleted rows stay deleted when their older versions lie in RocksDB.
sql('DELETE FROM child; DELETE FROM hot WHERE id IN (2, 7); SELECT orbit_flush(); CALL churn_committing(3); SELECT orbit_flush()');
is(sql('SELECT string_agg(id::text, \',\' ORDER BY id) FROM hot'), '1,3,4,5,6,8,9,10', 'deleted rows');
$node->restart;
is(sql('SELECT string_agg(id::text, \',\' ORDER BY id) FROM hot'), '1,3,4,5,6,8,9,10',
	'deleted rows after a restart');
is(sql('SET enable_seqscan = off; SELECT count(*) FROM hot WHERE id = 2'), '0', 'and by the index');

# What was rolled back is not written out, whatever else a page has to be written for.
sql(q{CREATE TABLE tried (id int PRIMARY KEY, n int) USING orbit;
	INSERT INTO tried SELECT g, 0 FROM generate_series(1, 1000) g;
	SELECT orbit_flush()});
$before = bytes_flushed();
sql('BEGIN; UPDATE tried SET n = n + 1; SAVEPOINT a; DELETE FROM tried; ROLLBACK TO a; UPDATE tried SET id = -id; ROLLBACK');
sql('SELECT orbit_flush()');
# The new rows of the last update are insertions: they stay, and no more.
cmp_ok(bytes_flushed() - $before, '<', 60_000, 'aborted updates and deletes are not flushed');
is(sql(q{SELECT versions FROM orbit_verify('tried')}), '2000', 'the versions in RocksDB');
is(sql('SELECT count(*), sum(n), min(id), max(id) FROM tried'), '1000|0|1|1000', 'the rows');
sql('BEGIN; DELETE FROM tried WHERE id = 1; ROLLBACK; DELETE FROM tried WHERE id = 1; BEGIN; DELETE FROM tried WHERE id = 2; SAVEPOINT a; ROLLBACK TO a; COMMIT; SELECT orbit_flush()');
is(sql('SELECT count(*), min(id) FROM tried'), '998|3', 'what was not rolled back is');

# Nor does it pile up in the write buffer: attempts at one row are as quick as at many.
sql(q{
CREATE FUNCTION try(what text, n int, one bool) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..n LOOP
		BEGIN
			EXECUTE what USING CASE WHEN one THEN 50 ELSE i % 900 + 50 END;
			RAISE EXCEPTION 'no' USING ERRCODE = 'P0001';
		EXCEPTION WHEN SQLSTATE 'P0001' THEN NULL;
		END;
	END LOOP;
END $$});
sql(q{SELECT orbit_flush()});
sql(q{SELECT try('UPDATE tried SET n = n + 1 WHERE id = $1', 900, true)});
my $versions = sql(q{SELECT versions FROM orbit_verify('tried')});
cmp_ok($versions, '<', 2010, "900 attempts at one row leave no more than the last ($versions versions)");
is(sql('SELECT n FROM tried WHERE id = 50'), '0', 'and change nothing');
sub milliseconds_of
{
	my ($what) = @_;
	return sql(qq{SELECT clock_timestamp() AS t \\gset
		SELECT try('DELETE FROM tried WHERE id = \$1', 3000, $what) \\g /dev/null
		SELECT round(extract(epoch FROM clock_timestamp() - :'t') * 1000)});
}
my $many = milliseconds_of('false');
my $one = milliseconds_of('true');
cmp_ok($one, '<', 5 * $many + 50, "deletions of one row rolled back take as long as of many ($one and $many ms)");

# A rewrite takes frozen rows as they are.
my $sum = sql('SELECT sum(n), count(*) FROM hot');
sql('VACUUM FULL hot');
is(sql('SELECT sum(n), count(*) FROM hot'), $sum, 'VACUUM FULL');

unlike(slurp_file($node->logfile), qr/PANIC|TRAP|terminated by signal/, 'no process died');
$node->stop;
done_testing();
