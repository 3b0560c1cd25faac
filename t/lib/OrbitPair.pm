# An orbit table r and a heap table h that get the same changes in the same
# transactions, so that they hold the same rows whatever a crash left of those.
#
#   CALL change(what, key, x)              one change of both; what: 0 .. 6
#   CALL churn(from, to, rounds, seed)     changes of these keys, in transactions of a few
package OrbitPair;

use strict;
use warnings;
use Exporter qw(import);
use Test::More;

our @EXPORT_OK = qw(create_pair pair_is_same);

my $schema = q{
CREATE TABLE r (k int PRIMARY KEY, v int, w int, pad text) USING orbit;
CREATE TABLE h (k int PRIMARY KEY, v int, w int, pad text) USING heap;
CREATE INDEX r_w ON r (w);

-- One change, in both tables.
CREATE PROCEDURE change(what int, key int, x int) LANGUAGE plpgsql AS $$
BEGIN
	CASE what
		WHEN 0, 1 THEN
			INSERT INTO r VALUES (key, x, x % 97, repeat('p', x % 400)) ON CONFLICT DO NOTHING;
			INSERT INTO h VALUES (key, x, x % 97, repeat('p', x % 400)) ON CONFLICT DO NOTHING;
		WHEN 2 THEN				-- in place
			UPDATE r SET v = v + 1, pad = repeat('q', x % 300) WHERE k = key;
			UPDATE h SET v = v + 1, pad = repeat('q', x % 300) WHERE k = key;
		WHEN 3 THEN				-- a new row
			UPDATE r SET w = x % 89 WHERE k = key;
			UPDATE h SET w = x % 89 WHERE k = key;
		WHEN 4 THEN
			DELETE FROM r WHERE k = key;
			DELETE FROM h WHERE k = key;
		WHEN 5 THEN				-- undone in part
			BEGIN
				UPDATE r SET v = -1, w = -1 WHERE k BETWEEN key AND key + 2;
				DELETE FROM r WHERE k = key + 1;
				INSERT INTO r VALUES (-key, -1, -1, 'never');
				RAISE EXCEPTION 'undo';
			EXCEPTION WHEN raise_exception THEN
				NULL;
			END;
		ELSE
			PERFORM FROM r WHERE k = key FOR UPDATE;
			CALL change(2, key, x);
	END CASE;
END $$;

CREATE PROCEDURE churn(lo int, hi int, rounds int, seed int) LANGUAGE plpgsql AS $$
DECLARE
	x int;
BEGIN
	FOR i IN 1 .. rounds LOOP
		x := (hashint8extended(i, seed) & 2147483647)::int;
		CALL change((x >> 16) % 7, lo + x % (hi - lo + 1), x >> 8);
		IF x % 5 = 0 THEN COMMIT;
		ELSIF x % 17 = 0 THEN ROLLBACK;
		END IF;
	END LOOP;
	COMMIT;
END $$;
};

# Differences: read page by page, by the primary key and by the other index; then rows of
# the undone.
my $differences = q{
SET max_parallel_workers_per_gather = 0; SET jit = off;
SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off;
SELECT count(*) FROM ((TABLE r EXCEPT ALL TABLE h) UNION ALL (TABLE h EXCEPT ALL TABLE r)) d;
RESET enable_indexscan; SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off; SET enable_memoize = off;
SELECT count(*) FROM h LEFT JOIN r USING (k) WHERE (r.v, r.w, r.pad) IS DISTINCT FROM (h.v, h.w, h.pad);
RESET enable_bitmapscan; SET enable_indexscan = off;
SELECT (SELECT count(*) FROM generate_series(0, 96) g, LATERAL (SELECT FROM r WHERE w = g) s) - (SELECT count(*) FROM h);
SELECT count(*) FROM r WHERE k < 0 OR w < 0;
};

sub create_pair
{
	my ($node) = @_;
	$node->safe_psql('postgres', $schema);
	return;
}

# A test, which gives whether it passed.
sub pair_is_same
{
	my ($node, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $got = $node->safe_psql('postgres', $differences) =~ s/\n/,/gr;
	return is($got, '0,0,0,0', $what);
}

1;
