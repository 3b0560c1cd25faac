# The heap twin: random statements, the same for a heap table and for an orbit
# table, of which every result must be the same.
#
# A script is a list of statements made from a seed alone, so a failure is
# repeated by its seed.  Statements are chosen so that their results do not
# depend on the order in which a table returns its rows: results are sorted,
# and nothing changes several keys at once so that the order decides whether
# one of them is taken.
#
#   script(seed, n)        one session: plans, savepoints, cursors, DDL, VACUUM
#   duel(seed, n)          two sessions driven by dblink from one script: waits,
#                          lock timeouts, READ COMMITTED and REPEATABLE READ
#   compare(a, b, script)  undef, or what differs first
package OrbitTwin;

use strict;
use warnings;
use Exporter qw(import);

our @EXPORT_OK = qw(script duel compare);

my $keys = 400;    # keys are 0 .. $keys - 1: collisions are wanted

# ---- a generator of its own: rand() differs between machines --------------------

my $state;

sub seed_with
{
	$state = ($_[0] * 2654435761 + 12345) & 0x7fffffff;
	rnd(10) for 1 .. 5;
	return;
}

sub rnd
{
	my ($n) = @_;
	$state = ($state * 1103515245 + 12345) & 0x7fffffff;
	return ($state >> 8) % $n;
}

sub pick { return $_[ rnd(scalar @_) ] }

sub chance { return rnd(100) < $_[0] }

# ---- the parts of statements -----------------------------------------------------

sub key { return rnd($keys) }

sub text_value
{
	my $r = rnd(100);
	return 'NULL' if $r < 8;
	return sprintf(q{repeat('%s', %d)}, chr(97 + rnd(26)), rnd(60)) if $r < 70;
	return sprintf(q{'v%d'}, rnd(50)) if $r < 92;
	return sprintf(q{repeat('%s', %d)}, chr(97 + rnd(26)), 1000 + rnd(8000)) if $r < 97;
	# Does not compress: out of line.
	return sprintf(q{(SELECT string_agg(md5((%d + g)::text), '' ORDER BY g) FROM generate_series(1, %d) g)},
		rnd(1000), 80 + rnd(200));
}

sub int_value { return chance(8) ? 'NULL' : rnd(100) }

sub row_value
{
	my ($k) = @_;
	return sprintf('(%d, %s, %s, %s)', $k, int_value(), text_value(),
		chance(20) ? 'NULL' : sprintf(q{'{%d,%d}'}, rnd(20), rnd(20)));
}

# Distinct keys, so that no statement meets a key of its own.
sub some_keys
{
	my ($n) = @_;
	my %k;
	$k{ key() } = 1 for 1 .. $n;
	return sort { $a <=> $b } keys %k;
}

sub condition
{
	my $r = rnd(10);
	return 'k = ' . key() if $r < 3;
	return sprintf('k BETWEEN %d AND %d', $_, $_ + rnd(60)) for $r < 5 ? key() : ();
	return 'a = ' . rnd(100) if $r < 6;
	return sprintf('a BETWEEN %d AND %d', $_, $_ + rnd(20)) for $r < 7 ? rnd(100) : ();
	return sprintf('k %% %d = %d', 2 + rnd(9), rnd(3)) if $r < 8;
	return sprintf(q{b = 'v%d'}, rnd(50)) if $r < 9;
	return sprintf(q{d @> '{%d}'}, rnd(20));
}

sub set_clause
{
	my $r = rnd(10);
	return 'a = coalesce(a, 0) + 1' if $r < 2;
	return 'a = ' . int_value() if $r < 4;
	return 'b = ' . text_value() if $r < 6;
	return sprintf(q{b = left(coalesce(b, '') || 'x%d', 9000), a = %s}, rnd(10), int_value()) if $r < 8;
	return sprintf(q{d = d || %d}, rnd(20)) if $r < 9;
	return 'k = k';
}

my $sorted = q{SELECT k, a, md5(b), d FROM %s ORDER BY k, a, md5(b)};

# ---- statements of one session ------------------------------------------------------

my @plans = (
	'RESET enable_seqscan; RESET enable_indexscan; RESET enable_bitmapscan',
	'SET enable_seqscan = off; RESET enable_indexscan; RESET enable_bitmapscan',
	'SET enable_seqscan = off; SET enable_indexscan = off; RESET enable_bitmapscan',
	'RESET enable_seqscan; SET enable_indexscan = off; SET enable_bitmapscan = off',
	'SET enable_hashagg = off', 'RESET enable_hashagg',
	'SET enable_hashjoin = off', 'RESET enable_hashjoin',
	'SET enable_mergejoin = off', 'RESET enable_mergejoin');

sub insert
{
	my $r = rnd(10);
	return 'INSERT INTO t VALUES ' . row_value(key()) if $r < 3;
	my $rows = join(', ', map { row_value($_) } some_keys(1 + rnd(12)));
	return "INSERT INTO t VALUES $rows" if $r < 4;
	return "INSERT INTO t VALUES $rows ON CONFLICT DO NOTHING" if $r < 6;
	return "INSERT INTO t VALUES $rows ON CONFLICT (k) DO UPDATE SET a = excluded.a, b = t.b" if $r < 8;
	return sprintf(
		q{INSERT INTO t SELECT g, g %% 90, 'v' || g %% 50, ARRAY[g %% 20] FROM generate_series(%d, %d) g ON CONFLICT (k) DO UPDATE SET a = coalesce(t.a, 0) + 1 WHERE t.a IS DISTINCT FROM 5},
		$_, $_ + rnd(80)) for key();
}

sub change
{
	my $r = rnd(20);
	return 'DELETE FROM t WHERE ' . condition() if $r < 4;
	return sprintf('UPDATE t SET k = %d WHERE k = %d', key(), key()) if $r < 6;
	return sprintf("WITH u AS (UPDATE t SET %s WHERE %s RETURNING *) $sorted", set_clause(), condition(), 'u') if $r < 9;
	return sprintf("WITH u AS (DELETE FROM t WHERE %s RETURNING *) $sorted", condition(), 'u') if $r < 10;
	return sprintf(
		'MERGE INTO t USING generate_series(%d, %d, %d) s (id) ON t.k = s.id WHEN MATCHED AND t.a > 50 THEN DELETE WHEN MATCHED THEN UPDATE SET a = %s WHEN NOT MATCHED THEN INSERT VALUES (s.id, %s)',
		$_, $_ + rnd(60), 1 + rnd(4), int_value(), int_value()) for $r < 11 ? key() : ();
	return sprintf('UPDATE t SET a = t.a + x.n FROM (SELECT a, count(*) n FROM t GROUP BY a) x WHERE x.a = t.a AND t.%s', 'k < ' . key())
	  if $r < 12;
	return sprintf('DO $$ BEGIN FOR i IN 1..%d LOOP UPDATE t SET a = coalesce(a, 0) + 1 WHERE k = %d; END LOOP; END $$',
		1 + rnd(chance(10) ? 300 : 15), key()) if $r < 13;
	return sprintf('UPDATE t SET %s WHERE %s', set_clause(), condition());
}

sub query
{
	my $r = rnd(12);
	return sprintf($sorted, 't WHERE ' . condition()) if $r < 4;
	return 'SELECT count(*), sum(k), sum(a), sum(length(b)) FROM t' if $r < 5;
	return 'SELECT a, count(*), min(k), max(k) FROM t GROUP BY a ORDER BY a' if $r < 6;
	return sprintf('SELECT k, a FROM t WHERE k > %d ORDER BY k LIMIT %d', key(), 1 + rnd(10)) if $r < 7;
	return sprintf('SELECT k, a FROM t WHERE k < %d ORDER BY k DESC LIMIT %d', key(), 1 + rnd(10)) if $r < 8;
	return 'SELECT count(*) FROM t x JOIN t y ON x.a = y.k' if $r < 9;
	return sprintf("SELECT k, a FROM (SELECT * FROM t WHERE %s FOR %s) x ORDER BY k", condition(),
		pick('UPDATE', 'NO KEY UPDATE', 'SHARE', 'KEY SHARE')) if $r < 10;
	return 'SELECT count(*), count(DISTINCT ctid) = count(*) FROM t' if $r < 11;
	return "SELECT count(*), md5(string_agg(t::text, ';' ORDER BY k)) FROM t";
}

# Inside a transaction block only.
sub cursor
{
	my @s = (sprintf('DECLARE c SCROLL CURSOR FOR SELECT k, a FROM t WHERE %s ORDER BY k', condition()));
	for (1 .. 2 + rnd(6))
	{
		push @s, pick('FETCH 3 FROM c', 'FETCH BACKWARD 2 FROM c', 'FETCH ALL FROM c', 'FETCH FIRST FROM c',
			'FETCH LAST FROM c', 'FETCH RELATIVE 2 FROM c', 'MOVE FORWARD 2 FROM c', change(), insert(), query());
	}
	return (@s, 'CLOSE c');
}

sub current_of
{
	my @s = (sprintf('DECLARE w CURSOR FOR SELECT k, a FROM t WHERE k >= %d ORDER BY k FOR UPDATE', key()),
		'FETCH 2 FROM w');
	push @s, pick('UPDATE t SET a = 77 WHERE CURRENT OF w', 'DELETE FROM t WHERE CURRENT OF w',
		q{UPDATE t SET b = 'current' WHERE CURRENT OF w}), 'FETCH 1 FROM w' for 1 .. 1 + rnd(3);
	return (@s, 'CLOSE w');
}

my @ddl = (
	'TRUNCATE t',
	'ALTER TABLE t ADD COLUMN e%d INT DEFAULT %d',
	'ALTER TABLE t DROP COLUMN IF EXISTS e%d',
	'ALTER TABLE t ALTER a TYPE BIGINT', 'ALTER TABLE t ALTER a TYPE INT', 'ALTER TABLE t ALTER b TYPE TEXT USING b || %d::text',
	'CREATE INDEX IF NOT EXISTS t_x%d ON t (a, k)', 'DROP INDEX IF EXISTS t_x%d',
	'CREATE INDEX IF NOT EXISTS t_h%d ON t USING hash (a)', 'DROP INDEX IF EXISTS t_h%d',
	'REINDEX TABLE t', 'CLUSTER t USING t_pkey', 'ANALYZE t');
my @outside = ('VACUUM t', 'VACUUM t', 'VACUUM (FREEZE) t', 'VACUUM FULL t', 'VACUUM ANALYZE t',
	'REINDEX TABLE CONCURRENTLY t', 'CREATE INDEX CONCURRENTLY IF NOT EXISTS t_x1 ON t (a, k)', 'CHECKPOINT');

sub schema
{
	my @s = ('CREATE TABLE t (k INT PRIMARY KEY, a INT, b TEXT, d INT[])');
	push @s, 'CREATE INDEX t_a ON t (a)' if chance(70);
	push @s, 'CREATE INDEX t_b ON t USING hash (b)' if chance(30);
	push @s, 'CREATE INDEX t_d ON t USING gin (d)' if chance(30);
	push @s, 'CREATE INDEX t_brin ON t USING brin (a) WITH (pages_per_range = 1)' if chance(20);
	push @s, 'CREATE INDEX t_part ON t (a) WHERE k % 2 = 0' if chance(30);
	if (chance(30))
	{
		# What triggers see, in an order of its own.
		push @s, 'CREATE TABLE seen (what TEXT)',
		  'CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO seen VALUES (TG_OP || coalesce(md5(OLD::text), $q$-$q$) || coalesce(md5(NEW::text), $q$-$q$)); RETURN NULL; END $$',
		  sprintf('CREATE CONSTRAINT TRIGGER see AFTER INSERT OR UPDATE OR DELETE ON t %s FOR EACH ROW EXECUTE FUNCTION see()',
			pick('', 'DEFERRABLE INITIALLY DEFERRED'));
	}
	else
	{
		push @s, 'CREATE TABLE seen (what TEXT)';
	}
	return @s;
}

my @audit = (
	"SELECT count(*), md5(string_agg(t::text, ';' ORDER BY k)) FROM t",
	"SELECT count(*), md5(string_agg(what, ';' ORDER BY what)) FROM seen");

my $fill = q{INSERT INTO t SELECT g, g % 90, 'v' || g % 50, ARRAY[g % 20, g % 7] FROM generate_series(0, 399, 3) g};

sub script
{
	my ($seed, $n) = @_;
	seed_with($seed);
	my @s = (schema(), $fill);
	my ($block, $points) = (0, 0);
	while (@s < $n)
	{
		my $r = rnd(100);
		if ($r < 22)    { push @s, insert() }
		elsif ($r < 50) { push @s, change() }
		elsif ($r < 66) { push @s, query() }
		elsif ($r < 70) { push @s, pick(@plans) }
		elsif ($r < 74)
		{
			my $ddl = pick(@ddl);
			my @n = map { rnd(3) } 1 .. ($ddl =~ tr/%//);
			push @s, sprintf($ddl, @n);
			push @s, $fill if $ddl =~ /TRUNCATE/;
		}
		elsif ($block and $r < 78) { push @s, cursor() }
		elsif ($block and $r < 80) { push @s, current_of() }
		elsif ($block and $r < 85) { push @s, 'SAVEPOINT s' . ++$points }
		elsif ($block and $r < 89 and $points)
		{
			push @s, pick('ROLLBACK TO s', 'ROLLBACK TO s', 'RELEASE s') . (1 + rnd($points));
		}
		elsif ($block and $r < 96)
		{
			push @s, chance(70) ? 'COMMIT' : 'ROLLBACK';
			($block, $points) = (0, 0);
		}
		elsif (not $block and $r < 84) { push @s, pick(@outside) }
		elsif (not $block and $r < 96)
		{
			push @s, pick('BEGIN', 'BEGIN', 'BEGIN ISOLATION LEVEL REPEATABLE READ');
			$block = 1;
		}
		else { push @s, $audit[0] }
	}
	push @s, 'COMMIT' if $block;
	return join("\n", map { "\\echo #$_\n$s[$_];" } 0 .. $#s) . "\n" . join("\n", map { "$_;" } @audit) . "\n";
}

# ---- two sessions ------------------------------------------------------------------------

sub on { return sprintf(q{SELECT dblink_exec('%s', $q$%s$q$, false)}, @_) }

sub ask
{
	my ($session, $query) = @_;
	return sprintf(q{SELECT * FROM dblink('%s', $q$%s$q$, false) AS r (x TEXT)}, $session, $query);
}

sub duel_change
{
	my $r = rnd(12);
	my $k = rnd(7);
	return sprintf('UPDATE t SET a = coalesce(a, 0) + 1 WHERE k = %d', $k) if $r < 3;
	return sprintf('UPDATE t SET k = %d WHERE k = %d', rnd(7), $k) if $r < 4;
	return sprintf('DELETE FROM t WHERE k = %d', $k) if $r < 5;
	return sprintf('INSERT INTO t VALUES (%d, %d)', $k, rnd(100)) if $r < 7;
	return sprintf('INSERT INTO t VALUES (%d, %d) ON CONFLICT (k) DO UPDATE SET a = coalesce(t.a, 0) + excluded.a', $k, rnd(100))
	  if $r < 9;
	return sprintf('INSERT INTO t VALUES (%d, %d) ON CONFLICT DO NOTHING', $k, rnd(100)) if $r < 10;
	return sprintf('UPDATE t SET a = a * 2 %% 1000 WHERE a > %d AND k = %d', rnd(100), $k) if $r < 11;
	return sprintf('DO $q2$ BEGIN PERFORM 1 FROM t WHERE k = %d FOR %s %s; END $q2$', $k,
		pick('UPDATE', 'NO KEY UPDATE', 'SHARE', 'KEY SHARE'), pick('', 'SKIP LOCKED', 'NOWAIT'));
}

my $duel_rows = q{SELECT k || ':' || coalesce(a::text, '-') FROM t ORDER BY k, a};

sub duel
{
	my ($seed, $n) = @_;
	seed_with($seed);
	my @s = ('CREATE TABLE t (k INT PRIMARY KEY, a INT, b TEXT)');
	push @s, 'CREATE INDEX t_a ON t (a)' if chance(50);
	push @s, 'INSERT INTO t SELECT i, i FROM generate_series(0, 4) i';
	for my $x ('s1', 's2')
	{
		push @s, "SELECT dblink_connect('$x', :'conn')", on($x, q{SET lock_timeout = '15ms'});
	}
	my %open;
	while (@s < $n)
	{
		my ($x, $y) = chance(50) ? ('s1', 's2') : ('s2', 's1');
		my $r = rnd(100);
		if (not $open{$x})
		{
			push @s, on($x, pick('BEGIN', 'BEGIN', 'BEGIN ISOLATION LEVEL REPEATABLE READ'));
			$open{$x} = 1;
		}
		elsif ($r < 45) { push @s, on($x, duel_change()) }
		elsif ($r < 60) { push @s, ask($x, $duel_rows) }
		elsif ($r < 68)
		{
			push @s, on($x, 'SAVEPOINT s'), on($x, duel_change()), on($x, pick('ROLLBACK TO s', 'RELEASE s'));
		}
		elsif ($r < 80 and $open{$y})
		{
			# The one sends a change and may wait, until the other ends.
			push @s, on($x, q{SET LOCAL lock_timeout = '5s'}),
			  sprintf(q{SELECT dblink_send_query('%s', $q$%s$q$)}, $x, duel_change()),
			  'SELECT 1 FROM pg_sleep(0.02)', on($y, chance(70) ? 'COMMIT' : 'ROLLBACK'),
			  map { sprintf(q{SELECT * FROM dblink_get_result('%s', false) AS r (x TEXT)}, $x) } 1 .. 2;
			push @s, on($x, q{SET LOCAL lock_timeout = '15ms'});
			$open{$y} = 0;
		}
		elsif ($r < 96)
		{
			push @s, on($x, chance(70) ? 'COMMIT' : 'ROLLBACK');
			$open{$x} = 0;
		}
		elsif ($r < 98) { push @s, 'CHECKPOINT' }
		else { push @s, 'VACUUM t' }
	}
	for my $x ('s1', 's2')
	{
		push @s, on($x, 'COMMIT') if $open{$x};
		push @s, "SELECT dblink_disconnect('$x')";
	}
	push @s, $duel_rows;
	return join("\n", map { "\\echo #$_\n$s[$_];" } 0 .. $#s) . "\n";
}

# ---- comparing -----------------------------------------------------------------------------

# Two outputs of psql; undef when they are the same, else the statement at which they
# part and what each gave for it.
sub compare
{
	my ($one, $two, $script) = @_;
	return if $one eq $two;
	my @one = split /^(?=#\d+$)/m, $one;
	my @two = split /^(?=#\d+$)/m, $two;
	my $i = 0;
	$i++ while $i < @one and $i < @two and $one[$i] eq $two[$i];
	my ($n) = (($one[$i] // $two[$i]) =~ /^#(\d+)/);
	my $statement = '?';
	($statement) = $script =~ /^\\echo #$n\n(.*?)(?=^\\echo #|\z)/ms if defined $n;
	return sprintf("statement %s: %s\n-- heap:\n%s\n-- orbit:\n%s\n", $n // '?', $statement // '?',
		substr($one[$i] // '(nothing)', 0, 4000), substr($two[$i] // '(nothing)', 0, 4000));
}

1;
