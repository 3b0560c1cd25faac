-- COPY in and out.
CREATE SCHEMA copy;
SET search_path = copy;
CREATE TABLE t (id INT PRIMARY KEY, s TEXT DEFAULT 'none', v INT CHECK (v < 1000));
COPY t FROM stdin;
1	one	1
2	\N	\N
3	tab\there	3
4	back\\slash	4
\.
COPY t (v, id) FROM stdin WITH (FORMAT csv, HEADER);
v,id
50,5
,6
\.
COPY t FROM stdin WITH (FORMAT csv, NULL 'NULL', QUOTE '''');
7,'a, ''quoted'' one',NULL
8,"two",8
\.
COPY t TO stdout;
COPY (SELECT * FROM t WHERE v IS NOT NULL ORDER BY id DESC) TO stdout WITH (FORMAT csv, HEADER, FORCE_QUOTE (s));
-- Errors in the middle leave nothing.
COPY t FROM stdin;
9	nine	9
10	ten	5000
\.
COPY t FROM stdin;
9	nine	9
1	dup	1
\.
COPY t FROM stdin;
9	nine	x
\.
COPY t FROM stdin;
9	nine
\.
SELECT count(*), max(id) FROM t;
-- WHERE, triggers, defaults, a savepoint around.
CREATE FUNCTION upper_s() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 13 THEN RETURN NULL; END IF; NEW.s := upper(NEW.s); RETURN NEW; END $$;
CREATE TRIGGER upper_s BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION upper_s();
COPY t (id, s) FROM stdin WHERE id <> 12;
11	eleven
12	twelve
13	thirteen
14	fourteen
\.
BEGIN;
SAVEPOINT s;
COPY t (id) FROM stdin;
20
21
\.
ROLLBACK TO s;
COPY t (id) FROM stdin;
20
\.
COMMIT;
SELECT * FROM t WHERE id > 10 ORDER BY id;
DROP TRIGGER upper_s ON t;
-- Many rows, in text and binary, into tables with and without indexes, and FREEZE.
CREATE TABLE big (id INT, s TEXT, n NUMERIC, b BYTEA);
INSERT INTO big SELECT i, nullif(repeat(chr(65 + i % 26), i % 200), ''), i / 7.0, decode(md5(i::text), 'hex') FROM generate_series(1, 10000) i;
\set file `mktemp /tmp/orbit_copy.XXXXXX`
COPY big TO :'file';
CREATE TABLE back (LIKE big);
COPY back FROM :'file';
SELECT count(*) FROM (TABLE big EXCEPT ALL TABLE back) x;
CREATE TABLE indexed (LIKE big);
ALTER TABLE indexed ADD PRIMARY KEY (id);
CREATE INDEX ON indexed (s);
CREATE INDEX ON indexed USING gin (to_tsvector('simple', coalesce(s, '')));
COPY indexed FROM :'file';
SELECT count(*) FROM (TABLE big EXCEPT ALL TABLE indexed) x;
COPY big TO :'file' WITH (FORMAT binary);
TRUNCATE back;
COPY back FROM :'file' WITH (FORMAT binary);
SELECT count(*), sum(id), sum(n) FROM back;
COPY back FROM :'file' WITH (FORMAT binary, FREEZE);
BEGIN;
TRUNCATE back;
COPY back FROM :'file' WITH (FORMAT binary, FREEZE);
SELECT count(*), sum(id) FROM back;
COMMIT;
SELECT count(*), sum(id), sum(length(s)) FROM back;
CREATE TABLE parts (LIKE big) PARTITION BY RANGE (id);
CREATE TABLE parts1 PARTITION OF parts FOR VALUES FROM (0) TO (5000);
CREATE TABLE parts2 PARTITION OF parts FOR VALUES FROM (5000) TO (10001);
COPY parts FROM :'file' WITH (FORMAT binary);
SELECT tableoid::regclass AS part, count(*), sum(id) FROM parts GROUP BY 1 ORDER BY 1;
COPY indexed FROM :'file' WITH (FORMAT binary);
SELECT count(*) FROM indexed;
\setenv file :file
\! rm -f "$file"
