-- Partitioned and inherited tables, and rows that move between partitions.
CREATE SCHEMA partitions;
SET search_path = partitions;
CREATE TABLE r (id INT, v TEXT, PRIMARY KEY (id)) PARTITION BY RANGE (id);
CREATE TABLE r1 PARTITION OF r FOR VALUES FROM (0) TO (100);
CREATE TABLE r2 PARTITION OF r FOR VALUES FROM (100) TO (200);
CREATE TABLE rd PARTITION OF r DEFAULT;
INSERT INTO r SELECT i, 'v' || i FROM generate_series(0, 290, 10) i;
SELECT tableoid::regclass AS part, count(*), min(id), max(id) FROM r GROUP BY 1 ORDER BY 1;
INSERT INTO r VALUES (50, 'dup');
INSERT INTO r1 VALUES (500, 'wrong');
UPDATE r SET id = id + 100 WHERE id = 5 OR id = 50 RETURNING tableoid::regclass, *;
UPDATE r SET id = id + 1000 WHERE id >= 200;
SELECT tableoid::regclass AS part, count(*), min(id), max(id) FROM r GROUP BY 1 ORDER BY 1;
DELETE FROM r WHERE id % 20 = 0;
SELECT tableoid::regclass AS part, count(*) FROM r GROUP BY 1 ORDER BY 1;
-- Moved back and forth in one transaction, with a rollback between.
BEGIN;
UPDATE r SET id = 177 WHERE id = 70;
SAVEPOINT s;
UPDATE r SET id = 77 WHERE id = 177;
SELECT tableoid::regclass, * FROM r WHERE v = 'v70';
ROLLBACK TO s;
SELECT tableoid::regclass, * FROM r WHERE v = 'v70';
COMMIT;
-- ON CONFLICT over partitions.
INSERT INTO r VALUES (177, 'x'), (178, 'y') ON CONFLICT (id) DO UPDATE SET v = r.v || '+' || excluded.v;
SELECT * FROM r WHERE id IN (177, 178) ORDER BY id;
INSERT INTO r VALUES (177, 'x') ON CONFLICT (id) DO UPDATE SET id = 5;
-- Triggers see a move as a deletion and an insertion.
CREATE FUNCTION show() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '% % % -> %', TG_OP, TG_TABLE_NAME, OLD, NEW; RETURN NULL; END $$;
CREATE TRIGGER show AFTER INSERT OR UPDATE OR DELETE ON r FOR EACH ROW EXECUTE FUNCTION show();
UPDATE r SET id = 8, v = 'moved' WHERE id = 178;
UPDATE r SET v = 'stayed' WHERE id = 8;
DROP TRIGGER show ON r;
-- A foreign key to a partitioned table, and from one; a move keeps the child.
CREATE TABLE child (p INT REFERENCES r ON UPDATE CASCADE);
INSERT INTO child VALUES (8);
INSERT INTO child VALUES (9);
UPDATE r SET id = 108 WHERE id = 8;
SELECT * FROM child;
DELETE FROM r WHERE id = 108;
-- Attach, detach, drop.
CREATE TABLE r3 (id INT NOT NULL, v TEXT);
INSERT INTO r3 VALUES (2000, 'attached'), (2001, 'too');
ALTER TABLE r ATTACH PARTITION r3 FOR VALUES FROM (2000) TO (3000);
INSERT INTO r VALUES (2002, 'through the parent');
SELECT count(*) FROM r WHERE id >= 2000;
ALTER TABLE r DETACH PARTITION r2;
DROP TABLE child;
ALTER TABLE r DETACH PARTITION r2;
SELECT tableoid::regclass AS part, count(*) FROM r GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM r2;
-- List, hash, two levels.
CREATE TABLE l (k TEXT, n INT) PARTITION BY LIST (k);
CREATE TABLE l_ab PARTITION OF l FOR VALUES IN ('a', 'b') PARTITION BY HASH (n);
CREATE TABLE l_ab0 PARTITION OF l_ab FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE l_ab1 PARTITION OF l_ab FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE l_null PARTITION OF l FOR VALUES IN (NULL, 'c');
INSERT INTO l SELECT CASE i % 4 WHEN 0 THEN 'a' WHEN 1 THEN 'b' WHEN 2 THEN 'c' END, i FROM generate_series(1, 1000) i;
INSERT INTO l VALUES ('d', 1);
SELECT tableoid::regclass AS part, count(*), sum(n) FROM l GROUP BY 1 ORDER BY 1;
UPDATE l SET n = n + 1;
UPDATE l SET k = 'c' WHERE k = 'a' AND n < 500;
SELECT tableoid::regclass AS part, count(*), sum(n) FROM l GROUP BY 1 ORDER BY 1;
COPY (SELECT k, n FROM l WHERE n <= 5 ORDER BY n) TO stdout;
-- Different shapes of parent and partition.
CREATE TABLE odd (junk INT, v TEXT, id INT NOT NULL);
ALTER TABLE odd DROP COLUMN junk;
INSERT INTO odd VALUES ('odd', 5000);
ALTER TABLE r ATTACH PARTITION odd FOR VALUES FROM (5000) TO (6000);
UPDATE r SET v = v || '!' WHERE id = 5000 RETURNING *;
UPDATE r SET id = 60 WHERE id = 5000 RETURNING tableoid::regclass, *;
UPDATE r SET id = 5001 WHERE id = 60 RETURNING tableoid::regclass, *;
-- Inheritance.
CREATE TABLE animal (name TEXT, legs INT);
CREATE TABLE dog (breed TEXT) INHERITS (animal);
INSERT INTO animal VALUES ('snake', 0);
INSERT INTO dog VALUES ('rex', 4, 'mix');
UPDATE animal SET legs = legs + 1 RETURNING tableoid::regclass, *;
SELECT * FROM ONLY animal;
DELETE FROM animal WHERE legs = 5;
SELECT count(*) FROM dog;
