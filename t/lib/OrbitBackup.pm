# What the tests of backup tools share: a load that may be cut off at any point of the
# log, the check of a copy, and servers made of copies.
#
# Each table comes twice, X_o (orbit) and X_h (heap), and every transaction changes both
# alike.  So whatever a backup, a point in time or a crash left of those transactions,
# X_o and X_h hold the same rows; heap is the specification.  bk_done counts the
# transactions of each client: a copy may not have fewer than were committed before it.
#
# One transaction ('held') stays prepared all the time and is in every copy.
#
# With ORBIT_TEST_AM=heap X_o is a heap table too: a test that fails then is wrong.
package OrbitBackup;

use strict;
use warnings;
use Exporter qw(import);
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use OrbitNode qw(orbit_node write_file);

our @EXPORT_OK = qw(backup_node load_start load_stop load_kill load_for done_count
  mark copy_is_right server_of adopt has_orbit run_ok run_fails);

my $am = $ENV{ORBIT_TEST_AM} // 'orbit';
my $clients = 3;
my $timeout = $PostgreSQL::Test::Utils::timeout_default;

sub has_orbit { return $am eq 'orbit' }

# ---- the tables and the load ----------------------------------------------------------

my $schema = <<'SQL';
CREATE EXTENSION amcheck;
CREATE TABLE bk_control (go bool) USING heap;
INSERT INTO bk_control VALUES (true);

-- A statement for both tables of a pair, which it calls NAME_@.
CREATE PROCEDURE twin(statement text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE replace(replace(statement, '@', 'o'), 'USING am', 'USING :am');
	EXECUTE replace(replace(statement, '@', 'h'), 'USING am', 'USING heap');
END $$;

-- c: what was written, to be compared with what is read.
CREATE PROCEDURE make_pair(name text) LANGUAGE plpgsql AS $$
BEGIN
	CALL twin(format('CREATE TABLE %s_@ (k int PRIMARY KEY, v int, w int, pad text,
		c text GENERATED ALWAYS AS (md5(k::text || v::text || w::text || pad)) STORED) USING am', name));
	CALL twin(format('CREATE INDEX ON %s_@ (w)', name));
END $$;

-- New, emptied and rewritten tables.
CREATE PROCEDURE change_side(side text, x int) LANGUAGE plpgsql AS $$
BEGIN
	CASE x % 8
		WHEN 0 THEN
			CALL twin(format('DROP TABLE %s_@', side));
			CALL make_pair(side);
		WHEN 1 THEN CALL twin(format('TRUNCATE %s_@', side));
		WHEN 2 THEN
			CALL twin(format('ALTER TABLE %s_@ DROP COLUMN c', side));
			CALL twin(format('ALTER TABLE %s_@ ADD c text GENERATED ALWAYS AS (md5(k::text || v::text || w::text || pad)) STORED', side));
		WHEN 3 THEN CALL twin(format('CLUSTER %s_@ USING %1$s_@_pkey', side));
		WHEN 4 THEN CALL twin(format('REINDEX TABLE %s_@', side));
		WHEN 5 THEN					-- undone
			BEGIN
				CALL twin(format('TRUNCATE %s_@', side));
				CALL twin(format('INSERT INTO %s_@ VALUES (-1, -1, -1, $q$never$q$)', side));
				CALL twin(format('DROP TABLE %s_@', side));
				RAISE EXCEPTION 'undo';
			EXCEPTION WHEN raise_exception THEN
				NULL;
			END;
		ELSE NULL;
	END CASE;
	CALL twin(format('INSERT INTO %s_@ SELECT g, %s, g %% 97, md5(g::text) FROM generate_series(%2$s, %2$s + 40) g ON CONFLICT DO NOTHING', side, x % 5000));
END $$;

CREATE PROCEDURE change(client int, what int, key int, x int) LANGUAGE plpgsql AS $$
DECLARE
	t text := 'bk_rows_' || client || '_@';
BEGIN
	CASE what
		WHEN 0, 1 THEN
			CALL twin(format('INSERT INTO %s SELECT g, %s, %s, md5((g + %2$s)::text) FROM generate_series(%s, %s) g
				ON CONFLICT (k) DO UPDATE SET v = excluded.v, pad = excluded.pad', t, x, x % 97, key, key + x % 16));
		WHEN 2, 3 THEN				-- in place
			CALL twin(format('UPDATE %s SET v = v + 1, pad = left(pad || %s, 300) WHERE k BETWEEN %s AND %s', t, x, key, key + x % 8));
		WHEN 4 THEN					-- new rows
			CALL twin(format('UPDATE %s SET w = (w + %s) %% 97 WHERE k BETWEEN %s AND %s', t, x % 97, key, key + x % 8));
		WHEN 5 THEN CALL twin(format('DELETE FROM %s WHERE k BETWEEN %s AND %s', t, key, key + x % 6));
		WHEN 6 THEN					-- out of line
			CALL twin(format('UPDATE %s SET pad = (SELECT string_agg(md5((g + %s)::text), '''' ORDER BY g) FROM generate_series(1, %s) g) WHERE k = %s',
				t, x, 100 + x % 200, key));
		WHEN 7 THEN
			CALL twin(format('DELETE FROM %s WHERE k = %s', t, key + 2000));
			CALL twin(format('UPDATE %s SET k = k + 2000 WHERE k = %s', t, key));
		WHEN 8 THEN					-- undone in part
			BEGIN
				CALL twin(format('UPDATE %s SET v = -1, w = -1 WHERE k BETWEEN %s AND %s', t, key, key + 9));
				CALL twin(format('DELETE FROM %s WHERE k = %s', t, key + 1));
				CALL twin(format('INSERT INTO %s VALUES (-%s, -1, -1, $q$never$q$)', t, key + 1));
				RAISE EXCEPTION 'undo';
			EXCEPTION WHEN raise_exception THEN
				NULL;
			END;
		WHEN 9 THEN
			CALL twin(format('DO $q$ BEGIN PERFORM FROM %s WHERE k BETWEEN %s AND %s ORDER BY k FOR UPDATE; END $q$', t, key, key + 5));
		ELSE CALL change_side('bk_side_' || client, x);
	END CASE;
END $$;

-- Moves between accounts, in the order of their numbers.
CREATE PROCEDURE transfer(a int, b int, amount int) LANGUAGE plpgsql AS $$
BEGIN
	IF a < b THEN
		CALL twin(format('UPDATE bk_ledger_@ SET v = v - %s WHERE k = %s', amount, a));
		CALL twin(format('UPDATE bk_ledger_@ SET v = v + %s WHERE k = %s', amount, b));
	END IF;
END $$;

CREATE PROCEDURE run(client int) LANGUAGE plpgsql AS $$
DECLARE
	x int;
	i int := 0;
BEGIN
	WHILE (SELECT go FROM bk_control) LOOP
		i := i + 1;
		FOR j IN 1 .. 1 + i % 3 LOOP
			x := (hashint8extended(i * 10 + j, client) & 2147483647)::int;
			CALL change(client, CASE WHEN x % 41 = 0 THEN 10 ELSE (x >> 16) % 10 END, 1 + x % 800, x >> 8);
		END LOOP;
		CALL transfer(1 + (x >> 20) % 10, 1 + (x >> 12) % 10, x % 100);
		CALL twin(format('UPDATE bk_done_@ SET v = v + 1 WHERE k = %s', client));
		IF x % 13 = 0 THEN ROLLBACK; ELSE COMMIT; END IF;
		PERFORM pg_sleep(0.005);
	END LOOP;
END $$;

-- What is wrong with this server's tables.
CREATE FUNCTION wrong() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	o text;
	h text;
	n bigint;
BEGIN
	PERFORM set_config('jit', 'off', true), set_config('max_parallel_workers_per_gather', '0', true), set_config('enable_indexonlyscan', 'off', true);
	FOR o IN SELECT relname FROM pg_class WHERE relname LIKE 'bk\_%\_o' AND relkind = 'r' ORDER BY 1 LOOP
		h := left(o, -1) || 'h';
		PERFORM set_config('enable_seqscan', 'on', true), set_config('enable_indexscan', 'off', true), set_config('enable_bitmapscan', 'off', true);
		EXECUTE format('SELECT count(*) FROM ((TABLE %I EXCEPT ALL TABLE %I) UNION ALL (TABLE %2$I EXCEPT ALL TABLE %1$I)) d', o, h) INTO n;
		IF n <> 0 THEN RETURN NEXT format('%s: %s rows differ, read by a scan', o, n); END IF;
		EXECUTE format('SELECT count(*) FROM %I WHERE k < 0 OR w < 0 OR c <> md5(k::text || v::text || w::text || pad)', o) INTO n;
		IF n <> 0 THEN RETURN NEXT format('%s: %s rows are damaged or never were', o, n); END IF;
		PERFORM set_config('enable_seqscan', 'off', true), set_config('enable_indexscan', 'on', true);
		EXECUTE format('SELECT count(*) FROM %I h, LATERAL (SELECT count(x.*) n, min(x::text) t FROM %I x WHERE x.k = h.k) o WHERE n <> 1 OR t IS DISTINCT FROM h::text', h, o) INTO n;
		IF n <> 0 THEN RETURN NEXT format('%s: %s rows differ, read by the primary key', o, n); END IF;
		PERFORM set_config('enable_indexscan', 'off', true), set_config('enable_bitmapscan', 'on', true);
		EXECUTE format('SELECT (SELECT count(x.*) FROM generate_series(0, 96) g, LATERAL (SELECT * FROM %I WHERE w = g) x) - (SELECT count(*) FROM %I)', o, h) INTO n;
		IF n <> 0 THEN RETURN NEXT format('%s: %s rows more, read by the second index', o, n); END IF;
	END LOOP;
	SELECT sum(v) INTO n FROM bk_ledger_o;
	IF n IS DISTINCT FROM 0 THEN RETURN NEXT format('the balances'' sum is %s', n); END IF;
END $$;

-- To be asked outside of a transaction that has changed anything.
CREATE FUNCTION wrong_inside() RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	i regclass;
BEGIN
	IF ':am' = 'orbit' THEN
		RETURN QUERY EXECUTE 'SELECT relation::text || $q$: $q$ || problem FROM orbit_verify() WHERE problem IS NOT NULL';
	END IF;
	FOR i IN SELECT c.oid FROM pg_class c JOIN pg_index ON indexrelid = c.oid WHERE relname LIKE 'bk\_%' AND indisvalid LOOP
		PERFORM bt_index_check(i, true);
	END LOOP;
END $$;

SQL

# The bulk lies in files that the load does not touch.
sub create_tables
{
	my ($node) = @_;
	my $names = join('', map { "CALL make_pair('bk_$_');\n" }
		qw(ledger done bulk mark held), map { ("rows_$_", "side_$_") } 0 .. $clients);
	$node->safe_psql('postgres', $schema =~ s/:am/$am/gr . $names . qq{
CALL twin('INSERT INTO bk_ledger_@ SELECT g, 0, 0, \$q\$x\$q\$ FROM generate_series(1, 10) g');
CALL twin('INSERT INTO bk_done_@ SELECT g, 0, 0, \$q\$x\$q\$ FROM generate_series(0, $clients) g');
CALL twin('INSERT INTO bk_bulk_@ SELECT g, g, g % 97, repeat(md5(g::text), 2) || md5((g + 1)::text) FROM generate_series(1, 3000) g');
CALL twin('INSERT INTO bk_held_@ VALUES (1, 1, 1, \$q\$x\$q\$), (2, 1, 1, \$q\$y\$q\$)');
BEGIN;
CALL twin('UPDATE bk_held_@ SET v = 2 WHERE k = 1');
CALL twin('INSERT INTO bk_held_@ SELECT g, 2, 2, \$q\$held\$q\$ FROM generate_series(3, 50) g');
SAVEPOINT a;
CALL twin('DELETE FROM bk_held_@ WHERE k = 2');
RELEASE a;
PREPARE TRANSACTION 'held';
});
	return;
}

# A primary with the tables; options of init and settings as for orbit_node.
sub backup_node
{
	my ($name, @settings) = @_;
	my %init = (allows_streaming => 1, extra => ['--data-checksums'], ref $settings[0] ? %{ shift @settings } : ());
	my $node = orbit_node($name, \%init, q{wal_keep_size = '512MB'}, q{autovacuum_naptime = '5s'},
		q{orbit.reclaim_threshold = 0}, q{orbit.reclaim_delay = '300ms'}, @settings);
	create_tables($node);
	return $node;
}

# What no procedure may do, or no single one; #n is a new number each time.
my @chores = (
	[ 'VACUUM bk_rows_1_o', 'VACUUM bk_side_1_o' ],
	[ 'BEGIN', 'CALL change(0, #n % 6, 1 + #n * 7 % 800, #n)', "PREPARE TRANSACTION 'chore #n'", 'SELECT pg_sleep(0.05)', "COMMIT PREPARED 'chore #n'" ],
	[ 'VACUUM (FREEZE) bk_ledger_o', 'CREATE INDEX CONCURRENTLY ON bk_rows_2_o (v)', 'DROP INDEX bk_rows_2_o_v_idx' ],
	[ 'BEGIN', 'CALL change(0, 10, 1, #n)', "PREPARE TRANSACTION 'chore #n'", "ROLLBACK PREPARED 'chore #n'" ],
	[ 'CLUSTER bk_rows_3_o USING bk_rows_3_o_pkey', 'VACUUM FULL bk_side_0_o', 'ANALYZE bk_rows_3_o' ],
	[ 'CHECKPOINT', 'REINDEX TABLE CONCURRENTLY bk_rows_1_o' ],
	[ 'BEGIN', q{CALL make_pair('bk_new_#n')},
		q{CALL twin('INSERT INTO bk_new_#n_@ SELECT g, #n, g % 97, md5(g::text) FROM generate_series(1, 300) g')}, 'COMMIT',
		q{CALL twin('DROP TABLE IF EXISTS bk_new_#m_@')} ]);

sub chores
{
	my ($from) = @_;
	my $sql = '';
	for my $n ($from .. $from + 999)
	{
		my $m = $n > 3 * @chores ? $n - 3 * @chores : 0;
		my @columns = map { '$x$' . s/#n/$n/gr =~ s/#m/$m/gr . '$x$' } @{ $chores[ $n % @chores ] };
		$sql .= 'SELECT ' . join(', ', @columns) . ", 'SELECT pg_sleep(0.05)' FROM bk_control WHERE go \\gexec\n";
	}
	return $sql;
}

my $first_chore = 1;

sub load_start
{
	my ($node) = @_;
	$node->safe_psql('postgres', 'UPDATE bk_control SET go = true');
	my @load;
	for my $i (0 .. $clients)
	{
		my $file = sprintf('%s/%s_load%d.sql', $PostgreSQL::Test::Utils::tmp_check, $node->name, $i);
		write_file($file, $i ? "CALL run($i);\n" : chores($first_chore));
		my $err = '';
		my $run = IPC::Run::start([ 'psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-d', $node->connstr('postgres'), '-f', $file ],
			'<', \undef, '>', '/dev/null', '2>', \$err);
		push @load, { run => $run, err => \$err };
	}
	$first_chore += 1000;
	return \@load;
}

# Ends the load; nothing may have failed.
sub load_stop
{
	my ($node, $load) = @_;
	$node->safe_psql('postgres', 'UPDATE bk_control SET go = false');
	my $errors = '';
	for (@$load)
	{
		$_->{run}->finish;
		$errors .= ${ $_->{err} } if $_->{run}->result(0) or ${ $_->{err} } =~ /ERROR|FATAL|PANIC/;
	}
	is($errors, '', $node->name . ': the load met no error');
	return;
}

# Of a server that is gone.
sub load_kill
{
	my ($load) = @_;
	$_->{run}->kill_kill for @$load;
	return;
}

# Transactions that the clients have committed.
sub done_count
{
	my ($node) = @_;
	return $node->safe_psql('postgres', 'SELECT sum(v) FROM bk_done_h');
}

# Until that many more transactions are committed.
sub load_for
{
	my ($node, $transactions) = @_;
	my $goal = done_count($node) + $transactions;
	$node->poll_query_until('postgres', "SELECT sum(v) >= $goal FROM bk_done_h") or die 'the load does not go on';
	return;
}

# A row that says how far a copy goes.
sub mark
{
	my ($node, $n) = @_;
	$node->safe_psql('postgres', "BEGIN; CALL twin('INSERT INTO bk_mark_@ VALUES ($n, $n, $n % 97, \$q\$mark\$q\$)'); COMMIT");
	return;
}

# ---- copies -------------------------------------------------------------------------------

# A test of a server whose recovery ends: its tables are right, it holds at least so many
# transactions, it can be written to, and is right after a restart (not with brief => 1).  More can be
# expected: marks => '1,2'.  The transaction that is held is committed or rolled back.
sub copy_is_right
{
	my ($node, $what, $at_least, %expected) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'recovery does not end';
	my @bad = ends_prepared($node);
	push @bad, split /\n/, $node->safe_psql('postgres', 'SELECT wrong()');
	my $done = done_count($node);
	push @bad, "$done transactions and not at least $at_least" if $done < $at_least;
	my $marks = $node->safe_psql('postgres', q{SELECT string_agg(k::text, ',' ORDER BY k) FROM bk_mark_o});
	push @bad, "marks $marks and not $expected{marks}" if defined $expected{marks} and $expected{marks} ne $marks;
	push @bad, 'no rows' if $node->safe_psql('postgres', 'SELECT count(*) FROM bk_bulk_o WHERE k > 0') != 3000;
	push @bad, goes_on($node) unless $expected{brief};
	push @bad, split /\n/, slurp_file($node->logfile) =~ s/^(?!.*(PANIC|TRAP|was terminated by signal)).*\n?//gmr;
	return ok(!@bad, "$what: $done transactions") || diag(join("\n", @bad));
}

# It is written to, and started once more.
sub goes_on
{
	my ($node) = @_;
	$node->safe_psql('postgres', join('', map { "CALL change(1, $_ % 11, $_ * 7, $_ * 91);" } 1 .. 60));
	$node->restart;
	return map { "after a restart: $_" } split /\n/, $node->safe_psql('postgres', 'SELECT wrong(); SELECT wrong_inside()');
}

# One held, and others that were cut off between two commands.
sub ends_prepared
{
	my ($node) = @_;
	my @gids = split /\n/, $node->safe_psql('postgres', 'SELECT gid FROM pg_prepared_xacts ORDER BY gid');
	my @bad = grep({ $_ eq 'held' } @gids) ? () : ('the prepared transaction is lost');
	my $before = $node->safe_psql('postgres', 'SELECT count(*), sum(v) FROM bk_held_o');
	push @bad, "rows of a prepared transaction: $before" if $before ne '2|2';
	my $commit = rand() < 0.5;
	$node->safe_psql('postgres', ($commit ? 'COMMIT' : 'ROLLBACK') . " PREPARED '$_'") for @gids;
	my $after = $node->safe_psql('postgres', 'SELECT count(*), sum(v) FROM bk_held_o');
	push @bad, "rows after the end of the prepared transaction: $after" if $after ne ($commit ? '49|98' : '2|2');
	return @bad;
}

# A server of a data directory that somebody has made, which is moved to where the server is to
# have it.  Settings are lines; it is not started.
sub server_of
{
	my ($name, $data, @settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	mkdir $node->basedir;
	rename($data, $node->data_dir) or die "$data: $!";
	adopt($node, @settings);
	return $node;
}

# The data directory is where it belongs, with another server's settings.
sub adopt
{
	my ($node, @settings) = @_;
	chmod(0700, $node->data_dir);
	$node->append_conf('postgresql.conf', join("\n", '', 'port = ' . $node->port, "unix_socket_directories = '" . $node->host . "'",
			@settings, ''));
	return;
}

# ---- commands ---------------------------------------------------------------------------------

sub run_ok
{
	my ($what, @command) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return command_ok(\@command, $what);
}

sub run_fails
{
	my ($what, $pattern, @command) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return command_fails_like(\@command, $pattern, $what);
}

1;
