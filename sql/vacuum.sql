-- VACUUM: index entries of dead rows go, those of rows that somebody needs stay.
CREATE EXTENSION pageinspect;
CREATE TABLE vac (id INT, v INT, t TEXT, a INT[], p POINT, r INT4RANGE);
CREATE UNIQUE INDEX vac_id ON vac (id);
CREATE INDEX vac_v ON vac (v) WITH (deduplicate_items = off);
CREATE INDEX vac_hash ON vac USING hash (v);
CREATE INDEX vac_gin ON vac USING gin (a);
CREATE INDEX vac_gist ON vac USING gist (r);
CREATE INDEX vac_spgist ON vac USING spgist (p);
CREATE INDEX vac_brin ON vac USING brin (id);
ALTER TABLE vac SET (autovacuum_enabled = off);
INSERT INTO vac SELECT i, i % 10, 'row ' || i, ARRAY[i, i + 1], point(i, -i), int4range(i, i + 3)
	FROM generate_series(1, 200) i;

-- what a btree's first leaf holds: every entry, and the high key when there is one
CREATE FUNCTION entries(index TEXT) RETURNS BIGINT LANGUAGE sql AS $$
	SELECT count(*) FROM bt_page_items(index, 1) WHERE NOT dead $$;
SELECT entries('vac_id'), entries('vac_v');

-- deleted, updated with a new key, inserted in vain
DELETE FROM vac WHERE id <= 50;
UPDATE vac SET v = v + 100 WHERE id BETWEEN 51 AND 70;
BEGIN;
INSERT INTO vac SELECT i, i FROM generate_series(301, 320) i;
ROLLBACK;
SELECT entries('vac_v');
VACUUM vac;
SELECT entries('vac_id'), entries('vac_v');
SELECT count(*), sum(id), sum(v) FROM vac;

-- the freed keys can be used again, through every index
INSERT INTO vac SELECT i, i % 10, 'again ' || i, ARRAY[i, i + 1], point(i, -i), int4range(i, i + 3)
	FROM generate_series(1, 50) i;
SET enable_seqscan = off;
SELECT id, t FROM vac WHERE id = 7;
SELECT count(*) FROM vac WHERE v = 7;
SELECT id, t FROM vac WHERE a @> ARRAY[8] ORDER BY id;
SELECT id, t FROM vac WHERE r @> 9 ORDER BY id;
SELECT id, t FROM vac WHERE p ~= point(9, -9);
RESET enable_seqscan;

-- nothing is dead: a second VACUUM changes nothing, nor does one that leaves indexes alone
VACUUM vac;
SELECT entries('vac_id'), entries('vac_v');
DELETE FROM vac WHERE id > 190;
VACUUM (INDEX_CLEANUP off) vac;
SELECT count(*) FROM vac;
VACUUM (INDEX_CLEANUP on) vac;
SELECT entries('vac_id'), entries('vac_v');

-- everything
DELETE FROM vac;
VACUUM vac;
SELECT entries('vac_id'), entries('vac_v');
SELECT relpages > 0 AS has_pages, reltuples FROM pg_class WHERE oid = 'vac_id'::regclass;
INSERT INTO vac VALUES (1, 1);
SELECT id, v FROM vac;

-- in parallel, in several passes, temporary and unlogged
CREATE TABLE vac_many (id INT PRIMARY KEY, v INT);
CREATE INDEX ON vac_many (v);
INSERT INTO vac_many SELECT i, i FROM generate_series(1, 40000) i;
DELETE FROM vac_many WHERE id % 10 <> 0;
SET maintenance_work_mem = '1MB';
SET min_parallel_index_scan_size = 0;
VACUUM (PARALLEL 2) vac_many;
RESET min_parallel_index_scan_size;
RESET maintenance_work_mem;
SELECT count(*), sum(v) FROM vac_many;
SELECT sum(live_items) < 5000 AS cleaned FROM generate_series(1, (SELECT relpages - 1 FROM pg_class WHERE relname = 'vac_many_pkey')) b, bt_page_stats('vac_many_pkey', b) s WHERE s.type = 'l';
CREATE TEMP TABLE vac_temp (id INT PRIMARY KEY);
INSERT INTO vac_temp SELECT generate_series(1, 100);
DELETE FROM vac_temp WHERE id <= 90;
VACUUM (PARALLEL 2) vac_temp;
SELECT entries('vac_temp_pkey'), (SELECT count(*) FROM vac_temp);
CREATE UNLOGGED TABLE vac_unlogged (id INT PRIMARY KEY);
INSERT INTO vac_unlogged SELECT generate_series(1, 100);
DELETE FROM vac_unlogged WHERE id <= 90;
VACUUM vac_unlogged;
SELECT entries('vac_unlogged_pkey'), (SELECT count(*) FROM vac_unlogged);

DROP FUNCTION entries;
DROP TABLE vac, vac_many, vac_temp, vac_unlogged;
DROP EXTENSION pageinspect;
