/* orbit_fdw--1.0.sql */

\echo Use "CREATE EXTENSION orbit_fdw" to load this file. \quit

CREATE FUNCTION orbit_tableam_handler(internal)
RETURNS table_am_handler
AS 'MODULE_PATHNAME' LANGUAGE C STRICT;

CREATE ACCESS METHOD orbit TYPE TABLE HANDLER orbit_tableam_handler;
COMMENT ON ACCESS METHOD orbit IS 'tables in RocksDB';
