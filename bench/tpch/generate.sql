-- Writes rows like TPC-H's into the files DIR/TABLE, in COPY's text format.
--
--   psql -v dir=DIR -v scale=0.1 -f generate.sql
--
-- Every value is a hash of its row's key and of a number that tells the columns apart: the same scale gives the
-- same rows everywhere.  Sizes, domains and dependencies between columns are those of the TPC-H
-- specification; texts are random words.

CREATE SCHEMA tpch_generate;
SET search_path = tpch_generate, public;
SET synchronize_seqscans = off;
SET work_mem = '256MB';

-- Uniform in [lo, hi].
CREATE FUNCTION h(key bigint, col int, lo bigint, hi bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN lo + (hashint8extended(key, col) & 9223372036854775807) % (hi - lo + 1);

CREATE FUNCTION pick(words text[], key bigint, col int) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN words[h(key, col, 1, cardinality(words))::int];

-- ---- texts -------------------------------------------------------------------------
-- A comment is a piece of one long text of random words, which psql puts in as a constant.

CREATE FUNCTION long_text() RETURNS text LANGUAGE sql RETURN (
	SELECT string_agg(pick(CASE i % 3 WHEN 0 THEN
			'{special,final,express,regular,pending,ironic,bold,even,silent,unusual,careful,quick,furious,blithe}'::text[]
		WHEN 1 THEN
			'{requests,accounts,packages,deposits,instructions,foxes,ideas,theodolites,pinto beans,dependencies,asymptotes,
				excuses,platelets,courts,dolphins,sauternes,warhorses,sheaves,pains,realms,dugouts,braids}'::text[]
		ELSE
			'{sleep,wake,are,cajole,haggle,nag,use,boost,affix,detect,integrate,maintain,nod,was,lose,sublate,solve,
				thrash,promise,engage,hinder,print,x-ray,breach,eat,grow,impress,mold,poach,serve,run,dazzle,snooze,doze,unwind}'::text[]
		END, i, 1), ' ' ORDER BY i)
	FROM generate_series(1, 15000) i);
SELECT long_text() AS text, length(long_text()) - 250 AS text_length \gset

-- A piece of lo to hi characters.
CREATE FUNCTION piece(body bytea, body_length int, key bigint, col int, lo int, hi int) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN convert_from(
	substring(body FROM h(key, col, 1, body_length)::int FOR h(key, col + 500, lo, hi)::int), 'UTF8');
\set body ':''text''::bytea, :text_length'

CREATE FUNCTION address(key bigint, col int) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN left(md5(key || '/' || col) || md5(col || '.' || key), h(key, col, 10, 40)::int);

CREATE FUNCTION phone(key bigint, nation bigint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN nation + 10 || '-' || h(key, 91, 100, 999) || '-' || h(key, 92, 100, 999) || '-' ||
	h(key, 93, 1000, 9999);

-- ---- sizes ----------------------------------------------------------------------------

SELECT (10000 * :scale)::int AS suppliers, (200000 * :scale)::int AS parts, (150000 * :scale)::int AS customers,
	(1500000 * :scale)::int AS orders, greatest((1000 * :scale)::int, 1) AS clerks \gset

-- The n-th supplier (0 to 3) of a part: spread over all of them.
CREATE FUNCTION supplier_of(part bigint, n bigint, suppliers bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN (part + n * (suppliers / 4 + (part - 1) / suppliers)) % suppliers + 1;

-- In cents.
CREATE FUNCTION retail_price(part bigint) RETURNS bigint
LANGUAGE sql IMMUTABLE PARALLEL SAFE RETURN 90000 + part / 10 % 20001 + 100 * (part % 1000);

-- ---- small tables -----------------------------------------------------------------------

\set file :dir '/region'
COPY (
	SELECT i - 1, name, piece(:body, i, 10, 31, 115)
	FROM unnest('{AFRICA,AMERICA,ASIA,EUROPE,MIDDLE EAST}'::text[]) WITH ORDINALITY r(name, i)
) TO :'file';

\set file :dir '/nation'
COPY (
	SELECT i - 1, split_part(name, ':', 1), split_part(name, ':', 2), piece(:body, i, 11, 31, 114)
	FROM unnest('{ALGERIA:0,ARGENTINA:1,BRAZIL:1,CANADA:1,EGYPT:4,ETHIOPIA:0,FRANCE:3,GERMANY:3,INDIA:2,INDONESIA:2,IRAN:4,
		IRAQ:4,JAPAN:2,JORDAN:4,KENYA:0,MOROCCO:0,MOZAMBIQUE:0,PERU:1,CHINA:2,ROMANIA:3,SAUDI ARABIA:4,VIETNAM:2,
		RUSSIA:3,UNITED KINGDOM:3,UNITED STATES:1}'::text[]) WITH ORDINALITY n(name, i)
) TO :'file';

-- One supplier in 2000 has complaints, and one has recommendations.
\set file :dir '/supplier'
COPY (
	SELECT i, 'Supplier#' || lpad(i::text, 9, '0'), address(i, 20), nation, phone(i, nation), (h(i, 21, -99999, 999999) / 100.0)::numeric(15, 2),
		CASE WHEN i % 2000 = 11 THEN piece(:body, i, 22, 10, 40) || 'Customer ' || piece(:body, i, 23, 0, 20) || 'Complaints'
			WHEN i % 2000 = 19 THEN piece(:body, i, 22, 10, 40) || 'Customer ' || piece(:body, i, 23, 0, 20) || 'Recommends'
			ELSE piece(:body, i, 22, 25, 100) END
	FROM (SELECT i, h(i, 24, 0, 24) AS nation FROM generate_series(1::bigint, :suppliers) i) s
) TO :'file';

\set colours '''{almond,antique,aquamarine,azure,beige,bisque,black,blanched,blue,blush,brown,burlywood,burnished,chartreuse,chiffon,chocolate,coral,cornflower,cornsilk,cream,cyan,dark,deep,dim,dodger,drab,firebrick,floral,forest,frosted,gainsboro,ghost,goldenrod,green,grey,honeydew,hot,indian,ivory,khaki,lace,lavender,lawn,lemon,light,lime,linen,magenta,maroon,medium,metallic,midnight,mint,misty,moccasin,navajo,navy,olive,orange,orchid,pale,papaya,peach,peru,pink,plum,powder,puff,purple,red,rose,rosy,royal,saddle,salmon,sandy,seashell,sienna,sky,slate,smoke,snow,spring,steel,tan,thistle,tomato,turquoise,violet,wheat,white,yellow}''::text[]'

\set file :dir '/part'
COPY (
	SELECT i, concat_ws(' ', pick(:colours, i, 30), pick(:colours, i, 31), pick(:colours, i, 32), pick(:colours, i, 33), pick(:colours, i, 34)),
		'Manufacturer#' || m, 'Brand#' || m || h(i, 35, 1, 5),
		concat_ws(' ', pick('{STANDARD,SMALL,MEDIUM,LARGE,ECONOMY,PROMO}', i, 36),
			pick('{ANODIZED,BURNISHED,PLATED,POLISHED,BRUSHED}', i, 37), pick('{TIN,NICKEL,BRASS,STEEL,COPPER}', i, 38)),
		h(i, 39, 1, 50),
		pick('{SM,LG,MED,JUMBO,WRAP}', i, 40) || ' ' || pick('{CASE,BOX,BAG,JAR,PKG,PACK,CAN,DRUM}', i, 41),
		(retail_price(i) / 100.0)::numeric(15, 2), piece(:body, i, 42, 5, 22)
	FROM (SELECT i, h(i, 43, 1, 5) AS m FROM generate_series(1::bigint, :parts) i) p
) TO :'file';

\set file :dir '/partsupp'
COPY (
	SELECT i, supplier_of(i, n, :suppliers), h(i * 4 + n, 50, 1, 9999), (h(i * 4 + n, 51, 100, 100000) / 100.0)::numeric(15, 2),
		piece(:body, i * 4 + n, 52, 49, 198)
	FROM generate_series(1::bigint, :parts) i, generate_series(0::bigint, 3) n
) TO :'file';

\set file :dir '/customer'
COPY (
	SELECT i, 'Customer#' || lpad(i::text, 9, '0'), address(i, 60), nation, phone(i + 1000000000, nation),
		(h(i, 61, -99999, 999999) / 100.0)::numeric(15, 2),
		pick('{AUTOMOBILE,BUILDING,FURNITURE,MACHINERY,HOUSEHOLD}', i, 62), piece(:body, i, 63, 29, 116)
	FROM (SELECT i, h(i, 64, 0, 24) AS nation FROM generate_series(1::bigint, :customers) i) c
) TO :'file';

-- ---- orders and their items -----------------------------------------------------------------
-- Of 32 order keys the first 8 are used.  One customer in three has no orders.  What an item
-- costs and when it is sent decides its order's price and status.

CREATE UNLOGGED TABLE item AS
	SELECT key, line, part, supplier_of(part, h(id, 70, 0, 3), :suppliers) AS supplier, quantity,
		quantity * retail_price(part) AS price, discount, tax, ordered,
		ordered + h(id, 71, 30, 90)::int AS commit, shipped, shipped + h(id, 72, 1, 30)::int AS received, id, number
	FROM (
		SELECT *, h(id, 73, 1, :parts) AS part, h(id, 74, 1, 50) AS quantity, h(id, 75, 0, 10) AS discount,
			h(id, 76, 0, 8) AS tax, ordered + h(id, 77, 1, 121)::int AS shipped
		FROM (
			SELECT *, key * 8 + line AS id
			FROM (
				SELECT i AS number, (i - 1) / 8 * 32 + (i - 1) % 8 + 1 AS key,
					date '1992-01-01' + h(i, 78, 0, date '1998-12-31' - 151 - date '1992-01-01')::int AS ordered
				FROM generate_series(1::bigint, :orders) i) o,
				generate_series(1::bigint, h(number, 79, 1, 7)) line) l) q;

\set file :dir '/orders'
COPY (
	SELECT key, customer - CASE WHEN customer % 3 = 0 THEN 1 ELSE 0 END, status,
		round(total / 1000000.0, 2), ordered,
		pick('{1-URGENT,2-HIGH,3-MEDIUM,4-NOT SPECIFIED,5-LOW}', number, 80),
		'Clerk#' || lpad(h(number, 81, 1, :clerks)::text, 9, '0'), 0, piece(:body, number, 82, 19, 78)
	FROM (
		SELECT number, key, ordered, h(number, 83, 1, :customers) AS customer,
			sum(price * (100 + tax) * (100 - discount)) AS total,
			CASE WHEN max(shipped) <= date '1995-06-17' THEN 'F' WHEN min(shipped) > date '1995-06-17' THEN 'O' ELSE 'P' END AS status
		FROM item GROUP BY number, key, ordered) o
	ORDER BY key
) TO :'file';

\set file :dir '/lineitem'
COPY (
	SELECT key, part, supplier, line, quantity, (price / 100.0)::numeric(15, 2), (discount / 100.0)::numeric(15, 2), (tax / 100.0)::numeric(15, 2),
		CASE WHEN received > date '1995-06-17' THEN 'N' WHEN h(id, 84, 0, 1) = 0 THEN 'R' ELSE 'A' END,
		CASE WHEN shipped > date '1995-06-17' THEN 'O' ELSE 'F' END,
		shipped, commit, received,
		pick('{DELIVER IN PERSON,COLLECT COD,NONE,TAKE BACK RETURN}', id, 85),
		pick('{REG AIR,AIR,RAIL,SHIP,TRUCK,MAIL,FOB}', id, 86), piece(:body, id, 87, 10, 43)
	FROM item
	ORDER BY key, line
) TO :'file';

DROP SCHEMA tpch_generate CASCADE;
