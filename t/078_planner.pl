# What the planner takes a table for, beside heap: how many rows, and how much there is to read.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node orbit_standby);
use PostgreSQL::Test::Utils;
use Test::More;

my $node = orbit_node('main', { allows_streaming => 1 }, 'autovacuum = off', 'fsync = off');

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql(q{
CREATE FUNCTION orbit_use_pages(rel regclass, pages bigint) RETURNS void
	AS 'orbit_fdw', 'orbit_use_pages' LANGUAGE C STRICT;
});

# Pages of the table as the planner sees them: what a sequential scan costs where only pages cost.
sub pages
{
	my ($table) = @_;
	my ($cost) = sql(qq{
		SET max_parallel_workers_per_gather = 0; SET enable_indexscan = off; SET enable_bitmapscan = off;
		SET enable_indexonlyscan = off; SET seq_page_cost = 1; SET cpu_tuple_cost = 0; SET cpu_operator_cost = 0;
		EXPLAIN SELECT * FROM $table}) =~ /\.\.([\d.]+)/;
	return $cost;
}

sub rows
{
	my ($table, $where) = @_;
	my ($rows) = sql("EXPLAIN SELECT * FROM $table" . ($where ? " WHERE $where" : '')) =~ / rows=(\d+)/;
	return $rows;
}

sub like_heap
{
	my ($what, $got, $heap, $percent) = @_;
	my $ok = $got >= $heap * (1 - $percent / 100) && $got <= $heap * (1 + $percent / 100);
	ok($ok, "$what: orbit $got, heap $heap");
	return;
}

# Tables o and h of the same columns and rows.
sub twins
{
	my ($columns, @statements) = @_;
	sql("DROP TABLE IF EXISTS o, h; CREATE TABLE o ($columns) USING orbit; CREATE TABLE h ($columns) USING heap");
	both(@statements);
	return;
}

sub both
{
	for my $statement (@_)
	{
		sql($statement =~ s/TABLE/$_/gr) for qw(o h);
	}
	return;
}

# ---- rows as they were inserted -------------------------------------------------------
my %columns = (
	narrow => ['id int', 'SELECT g FROM generate_series(1, 30000) g'],
	text => ['id int, k int, s text', q{SELECT g, g % 100, 'row number ' || g FROM generate_series(1, 20000) g}],
	wide => ['id int, s text', q{SELECT g, repeat(md5(g::text), 25) FROM generate_series(1, 4000) g}],
	nulls => ['id int, a text, b bigint',
		q{SELECT g, CASE WHEN g % 100 = 0 THEN repeat(md5(g::text), 40) END, nullif(g % 3, 0) FROM generate_series(1, 20000) g}],
	toasted => ['id int, s text', q{SELECT g, string_agg(md5(g || '.' || i), '') FROM generate_series(1, 300) g, generate_series(1, 200) i GROUP BY g ORDER BY g}]);
for my $name (sort keys %columns)
{
	my ($columns, $rows) = @{ $columns{$name} };
	twins($columns, "INSERT INTO TABLE $rows");
	like_heap("$name, never analyzed, rows", rows('o'), rows('h'), 25);
	like_heap("$name, never analyzed, pages", pages('o'), pages('h'), 25);
	both('ANALYZE TABLE');
	is(rows('o', $_), rows('h', $_), "$name, rows where $_") for 'true', 'id < 100', 'id = 7', 'id % 2 = 0';
	like_heap("$name, pages", pages('o'), pages('h'), 15);

	# twice as many, and nobody has counted them
	both("INSERT INTO TABLE $rows");
	like_heap("$name, grown, rows", rows('o'), rows('h'), 3);
	like_heap("$name, grown, pages", pages('o'), pages('h'), 15);
}

# ---- rows that got longer in place: their pages hold more than a page -----------------
twins('id int PRIMARY KEY, s text', 'INSERT INTO TABLE SELECT g FROM generate_series(1, 20000) g', 'VACUUM ANALYZE TABLE');
both('UPDATE TABLE SET s = repeat(md5(id::text), 25)', 'VACUUM ANALYZE TABLE');
is(rows('o'), rows('h'), 'longer rows: rows');
sql('VACUUM FULL h; ANALYZE h');
like_heap('longer rows: pages, of heap after VACUUM FULL', pages('o'), pages('h'), 20);
both('UPDATE TABLE SET s = NULL', 'VACUUM FULL TABLE', 'ANALYZE TABLE');
like_heap('shorter rows, rewritten: pages', pages('o'), pages('h'), 15);

# ---- page numbers that no page has -------------------------------------------------------
# what a full write buffer did not take along stays in the next one
sql(q{ALTER SYSTEM SET orbit.flush_interval = '1h'});
$node->reload;
twins('id int PRIMARY KEY, s text');
sql(q{SELECT orbit_use_pages('o', 3000000)});
both(q{INSERT INTO TABLE SELECT g, 'message' FROM generate_series(1, 2000) g}, 'VACUUM ANALYZE TABLE');
like_heap('rows after many pages that are gone', rows('o'), rows('h'), 1);
cmp_ok(pages('o'), '<', 100, 'pages that are gone cost nothing');
both(q{INSERT INTO TABLE SELECT g, 'message' FROM generate_series(2001, 40000) g});
like_heap('rows inserted after ANALYZE', rows('o'), rows('h'), 20);
like_heap('pages begun after ANALYZE', pages('o'), pages('h'), 40);
both('ANALYZE TABLE');
like_heap('rows after ANALYZE', rows('o'), rows('h'), 1);

# Which pages are gone is known to nobody after a restart, until somebody looks.
$node->restart;
cmp_ok(pages('o'), '<', 500, 'pages after a restart');
like_heap('rows after a restart', rows('o'), rows('h'), 1);
both(q{INSERT INTO TABLE SELECT g, 'message' FROM generate_series(40001, 50000) g});
$node->restart;
like_heap('rows inserted between ANALYZE and a restart', rows('o'), rows('h'), 20);

# The same on a standby, where there is no ANALYZE.
my $standby = orbit_standby($node);
$node->wait_for_catchup($standby, 'replay', $node->lsn('flush'));
$node = $standby;
cmp_ok(pages('o'), '<', 600, 'pages on a standby');
like_heap('rows on a standby', rows('o'), rows('h'), 20);

done_testing();
