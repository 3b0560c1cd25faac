# Tables of which little is left: the statistics that ANALYZE and VACUUM find are those of the same
# rows in heap, however far page numbers reach, and plans cost what is there to read.  Page numbers in
# between are skipped, not filled.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node);
use PostgreSQL::Test::Utils;
use Test::More;

my $node = orbit_node('main', 'autovacuum = off', q{orbit.write_buffer_size = '4MB'}, 'fsync = off',
	q{orbit.reclaim_delay = '200ms'});

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql(q{
CREATE FUNCTION orbit_use_pages(rel regclass, pages bigint) RETURNS void
	AS 'orbit_fdw', 'orbit_use_pages' LANGUAGE C STRICT;
});

# What the planner knows of each column: how many values, the commonest, the ends of the
# histogram, the order on disk.
sub statistics
{
	my ($table) = @_;
	return sql(qq{
		SELECT attname, n_distinct, most_common_vals::text, most_common_freqs::text,
			(histogram_bounds::text::text[])[1], (histogram_bounds::text::text[])[array_length(histogram_bounds::text::text[], 1)],
			round(correlation::numeric, 2)
		FROM pg_stats WHERE tablename = '$table' ORDER BY attname});
}

sub pages_planned
{
	my ($table) = @_;
	my ($cost) = sql("SET enable_indexscan = off; SET seq_page_cost = 1; SET cpu_tuple_cost = 0; EXPLAIN SELECT * FROM $table") =~ /\.\.([\d.]+)/;
	return $cost;
}

# Both tables get what fill says, between the jumps of page numbers, then ANALYZE and VACUUM ANALYZE.
sub same_as_heap
{
	my ($what, $rows, $most_pages, @parts) = @_;
	sql(qq{
		CREATE TABLE q (id int PRIMARY KEY, k int, body text) USING orbit;
		CREATE TABLE h (LIKE q INCLUDING ALL) USING heap;
	});
	for my $part (@parts)
	{
		sql($part =~ /^\d+$/ ? "SELECT orbit_use_pages('q', $part)"
			: join(';', map { $part =~ s/TABLE/$_/gr } qw(q h)));
	}
	for my $how ('ANALYZE', 'VACUUM', 'VACUUM ANALYZE', 'ANALYZE')
	{
		sql("SELECT orbit_flush(); $how q; $how h");
		if ($rows <= 30000)
		{
			is(statistics('q'), statistics('h'), "$what, $how: statistics are heap's");
		}
		my $reltuples = sql(q{SELECT reltuples FROM pg_class WHERE relname = 'q'});
		cmp_ok(abs($reltuples - $rows), '<=', $rows / 50, "$what, $how: $reltuples of $rows rows");
		cmp_ok(pages_planned('q'), '<', $most_pages, "$what, $how: few pages to read");
	}
	is(sql('SELECT count(*), sum(id) FROM q'), sql('SELECT count(*), sum(id) FROM h'), "$what: the rows");
	sql('DROP TABLE q, h');
	return;
}

my $fill = sub {
	my ($first, $last) = @_;
	return "INSERT INTO TABLE SELECT g, g % 7, 'message ' || g FROM generate_series($first, $last) g";
};

same_as_heap('a queue', 500, 100, 10_000_000, $fill->(1, 500));
same_as_heap('a queue with rows that nobody fetches', 1100, 200, $fill->(1, 100), 5_000_000,
	$fill->(101, 600), 50_000_000, $fill->(601, 1100));
same_as_heap('more rows than a sample', 200_000, 6000, $fill->(1, 100_000), 1_000_000, $fill->(100_001, 200_000));
same_as_heap('nothing', 0, 2, 1_000_000, $fill->(1, 1), q{DELETE FROM TABLE});

# ---- the older nine tenths are deleted
sql(q{
CREATE TABLE q (id int PRIMARY KEY, body text) USING orbit;
ALTER TABLE q ALTER body SET STORAGE PLAIN;
INSERT INTO q SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 40000) g;
DELETE FROM q WHERE id <= 36000;
VACUUM q;
});
for (1 .. 300)
{
	sql('VACUUM ANALYZE q');
	last if pages_planned('q') < 1500;
	select undef, undef, undef, 0.2;
}
cmp_ok(pages_planned('q'), '<', 1500, 'pages that are gone cost nothing');
is(sql(q{SELECT reltuples FROM pg_class WHERE relname = 'q'}), 4000, 'reltuples');
is(sql(q{SELECT n_distinct FROM pg_stats WHERE tablename = 'q' AND attname = 'id'}), -1, 'no row is sampled twice');

$node->stop('fast');
done_testing();
