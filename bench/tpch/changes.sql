-- Orders go, others come, rows change: in place, with an indexed column, and with a longer text.
BEGIN;
DELETE FROM lineitem WHERE l_orderkey % 11 = 3;
DELETE FROM orders WHERE o_orderkey % 11 = 3;
INSERT INTO orders
	SELECT o_orderkey + 8, o_custkey, o_orderstatus, o_totalprice, o_orderdate, o_orderpriority, o_clerk, o_shippriority, o_comment
	FROM orders WHERE o_orderkey % 13 = 5;
INSERT INTO lineitem
	SELECT l_orderkey + 8, l_partkey, l_suppkey, l_linenumber, l_quantity, l_extendedprice, l_discount, l_tax, l_returnflag,
		l_linestatus, l_shipdate, l_commitdate, l_receiptdate, l_shipinstruct, l_shipmode, l_comment
	FROM lineitem WHERE l_orderkey % 13 = 5;
UPDATE orders SET o_totalprice = o_totalprice + 1 WHERE o_orderkey % 7 = 2;
UPDATE lineitem SET l_shipdate = l_shipdate + 1 WHERE l_orderkey % 17 = 4;
UPDATE customer SET c_acctbal = c_acctbal - 1 WHERE c_custkey % 5 = 1;
UPDATE partsupp SET ps_comment = rpad(ps_comment, 199, ' changed') WHERE ps_partkey % 3 = 1;
COMMIT;
