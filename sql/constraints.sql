-- Primary keys, unique, foreign keys in both directions, check, exclusion.
CREATE SCHEMA constraints;
SET search_path = constraints;

CREATE TABLE pk (a INT, b TEXT, PRIMARY KEY (a, b));
INSERT INTO pk VALUES (1, 'x'), (1, 'y'), (2, 'x');
INSERT INTO pk VALUES (1, 'x');
INSERT INTO pk VALUES (NULL, 'x');
UPDATE pk SET b = 'x' WHERE a = 1 AND b = 'y';
DELETE FROM pk WHERE a = 1 AND b = 'x';
UPDATE pk SET b = 'x' WHERE a = 1 AND b = 'y';
SELECT * FROM pk ORDER BY a, b;
-- A key deleted and inserted in one transaction; after a rollback the old row holds it.
BEGIN;
DELETE FROM pk WHERE a = 2;
INSERT INTO pk VALUES (2, 'x');
DELETE FROM pk WHERE a = 2;
INSERT INTO pk VALUES (2, 'x');
ROLLBACK;
INSERT INTO pk VALUES (2, 'x');
BEGIN;
INSERT INTO pk VALUES (3, 'x');
ROLLBACK;
INSERT INTO pk VALUES (3, 'x');
SELECT * FROM pk ORDER BY a, b;

CREATE TABLE uq (id INT, u INT UNIQUE, nn INT UNIQUE NULLS NOT DISTINCT, CHECK (id > 0), CONSTRAINT sum_small CHECK (u + nn < 1000));
INSERT INTO uq VALUES (1, 1, 1), (2, NULL, 2), (3, NULL, NULL);
INSERT INTO uq VALUES (4, NULL, NULL);
INSERT INTO uq VALUES (-1, 5, 5);
INSERT INTO uq VALUES (5, 900, 100);
UPDATE uq SET u = 999 WHERE id = 1;
UPDATE uq SET u = u + 1;
SELECT * FROM uq ORDER BY id;

-- Deferrable uniqueness: swapping is allowed.
CREATE TABLE swap (id INT PRIMARY KEY DEFERRABLE, pos INT UNIQUE DEFERRABLE INITIALLY DEFERRED);
INSERT INTO swap SELECT i, i FROM generate_series(1, 5) i;
UPDATE swap SET id = 6 - id;
BEGIN;
UPDATE swap SET pos = 2 WHERE id = 5;
SELECT count(*) FROM swap WHERE pos = 2;
UPDATE swap SET pos = 1 WHERE id = 4;
COMMIT;
SELECT * FROM swap ORDER BY id;
BEGIN;
UPDATE swap SET pos = 3 WHERE id = 5;
COMMIT;
BEGIN;
UPDATE swap SET pos = 3 WHERE id = 5;
SET CONSTRAINTS ALL IMMEDIATE;
ROLLBACK;
BEGIN;
INSERT INTO swap VALUES (6, 1);
UPDATE swap SET pos = 66 WHERE id = 6;
COMMIT;
BEGIN;
INSERT INTO swap VALUES (7, 66);
DELETE FROM swap WHERE id = 7;
COMMIT;
SELECT * FROM swap ORDER BY id;

-- Foreign keys: every action, both directions.
CREATE TABLE parent (id INT PRIMARY KEY, note TEXT);
CREATE TABLE child_no (id INT PRIMARY KEY, p INT REFERENCES parent);
CREATE TABLE child_cascade (id INT PRIMARY KEY, p INT REFERENCES parent ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE child_null (id INT PRIMARY KEY, p INT REFERENCES parent ON DELETE SET NULL ON UPDATE SET NULL);
CREATE TABLE child_default (id INT PRIMARY KEY, p INT DEFAULT 0 REFERENCES parent ON DELETE SET DEFAULT);
INSERT INTO parent SELECT i, 'p' || i FROM generate_series(0, 9) i;
INSERT INTO child_no VALUES (1, 1), (2, NULL);
INSERT INTO child_no VALUES (3, 99);
INSERT INTO child_cascade VALUES (1, 2), (2, 2), (3, 3);
INSERT INTO child_null VALUES (1, 4), (2, 5);
INSERT INTO child_default VALUES (1, 6);
DELETE FROM parent WHERE id = 1;
UPDATE parent SET id = 100 WHERE id = 1;
UPDATE parent SET note = 'changed' WHERE id = 1;
UPDATE child_no SET p = 98 WHERE id = 1;
DELETE FROM parent WHERE id = 2;
UPDATE parent SET id = 33 WHERE id = 3;
DELETE FROM parent WHERE id = 4;
UPDATE parent SET id = 55 WHERE id = 5;
DELETE FROM parent WHERE id = 6;
DELETE FROM child_no WHERE id = 1;
DELETE FROM parent WHERE id = 1;
SELECT * FROM parent ORDER BY id;
SELECT 'cascade' AS t, * FROM child_cascade UNION ALL SELECT 'null', * FROM child_null UNION ALL SELECT 'default', * FROM child_default ORDER BY 1, 2;
-- Parent and child in one transaction; checks at its end.
CREATE TABLE later (id INT PRIMARY KEY, p INT REFERENCES later DEFERRABLE INITIALLY DEFERRED);
BEGIN;
INSERT INTO later VALUES (1, 2);
INSERT INTO later VALUES (2, 1);
COMMIT;
BEGIN;
INSERT INTO later VALUES (3, 4);
COMMIT;
BEGIN;
INSERT INTO later VALUES (3, 4);
UPDATE later SET p = 1 WHERE id = 3;
COMMIT;
BEGIN;
DELETE FROM later WHERE id = 1;
INSERT INTO later VALUES (1, 2);
COMMIT;
SELECT * FROM later ORDER BY id;
-- Adding a key to a table with rows.
CREATE TABLE late_child (p INT);
INSERT INTO late_child VALUES (7), (8), (77);
ALTER TABLE late_child ADD FOREIGN KEY (p) REFERENCES parent;
DELETE FROM late_child WHERE p = 77;
ALTER TABLE late_child ADD CONSTRAINT late_fk FOREIGN KEY (p) REFERENCES parent NOT VALID;
ALTER TABLE late_child VALIDATE CONSTRAINT late_fk;
DELETE FROM parent WHERE id = 8;
ALTER TABLE late_child ADD CHECK (p < 8);
ALTER TABLE late_child ALTER p SET NOT NULL;
INSERT INTO late_child VALUES (NULL);
ALTER TABLE late_child ADD PRIMARY KEY (p);
INSERT INTO late_child VALUES (7);
-- A self-referencing tree, deleted from its root.
CREATE TABLE tree (id INT PRIMARY KEY, up INT REFERENCES tree ON DELETE CASCADE);
INSERT INTO tree SELECT i, nullif(i / 2, 0) FROM generate_series(1, 200) i;
DELETE FROM tree WHERE id = 3;
SELECT count(*) FROM tree;
DELETE FROM tree WHERE id = 1;
SELECT count(*) FROM tree;
TRUNCATE parent;

-- Exclusion.
CREATE TABLE rooms (room TEXT, during INT4RANGE, EXCLUDE USING gist (during WITH &&));
INSERT INTO rooms VALUES ('a', '[1,5)'), ('a', '[5,9)');
INSERT INTO rooms VALUES ('b', '[4,6)');
UPDATE rooms SET during = '[8,12)' WHERE during = '[1,5)';
DELETE FROM rooms WHERE during = '[5,9)';
UPDATE rooms SET during = '[8,12)' WHERE during = '[1,5)';
INSERT INTO rooms VALUES ('b', '[4,6)');
SELECT * FROM rooms ORDER BY during;
CREATE TABLE hashed (v INT, EXCLUDE USING hash (v WITH =));
INSERT INTO hashed VALUES (1), (2);
INSERT INTO hashed VALUES (1);
