/* orbit_fdw--1.0.sql */

\echo Use "CREATE EXTENSION orbit_fdw" to load this file. \quit

/* Says how to preload, before anything is created. */
CREATE FUNCTION orbit_check_preload() RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT;
SELECT orbit_check_preload();
DROP FUNCTION orbit_check_preload();

CREATE FUNCTION orbit_tableam_handler(internal)
RETURNS table_am_handler
AS 'MODULE_PATHNAME' LANGUAGE C STRICT;

CREATE ACCESS METHOD orbit TYPE TABLE HANDLER orbit_tableam_handler;
COMMENT ON ACCESS METHOD orbit IS 'tables in RocksDB';

/* ---- the storage worker ---- */

CREATE FUNCTION orbit_flush() RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION orbit_flush() IS 'flushes the write buffers of orbit tables to RocksDB';
REVOKE EXECUTE ON FUNCTION orbit_flush() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION orbit_flush() TO pg_checkpoint;

CREATE FUNCTION orbit_stat_write_buffers(
	OUT seq bigint,
	OUT state text,
	OUT used bigint,
	OUT size bigint,
	OUT max_lsn pg_lsn)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 4;
COMMENT ON FUNCTION orbit_stat_write_buffers() IS 'write buffers of orbit tables that are not yet in RocksDB';

CREATE FUNCTION orbit_stat_storage(
	OUT worker_pid integer,
	OUT generation bigint,
	OUT flushed_lsn pg_lsn,
	OUT covered_redo pg_lsn,
	OUT flushes bigint,
	OUT pages_put bigint,
	OUT pages_merged bigint,
	OUT bytes_flushed bigint,
	OUT reserve_waits bigint,
	OUT oldest_seq bigint,
	OUT active_seq bigint,
	OUT pinned_buffers integer,
	OUT retired_files integer,
	OUT writers integer)
RETURNS record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION orbit_stat_storage() IS 'positions and counters of the storage of orbit tables';

CREATE FUNCTION orbit_column_families(
	OUT name text,
	OUT files integer,
	OUT bytes bigint,
	OUT levels text,
	OUT estimated_keys bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED ROWS 4;
COMMENT ON FUNCTION orbit_column_families() IS 'column families of RocksDB';

CREATE FUNCTION orbit_stat_reclaim(
	OUT horizon xid8,
	OUT settled xid8,
	OUT horizon_moved timestamptz,
	OUT running boolean,
	OUT jobs bigint,
	OUT failed_jobs bigint,
	OUT job_bytes_read bigint,
	OUT job_bytes_written bigint,
	OUT compactions bigint,
	OUT bytes_read bigint,
	OUT bytes_written bigint,
	OUT pages_pruned bigint,
	OUT pages_removed bigint,
	OUT bytes_pruned bigint,
	OUT damaged_pages bigint)
RETURNS record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL RESTRICTED;
COMMENT ON FUNCTION orbit_stat_reclaim() IS 'space reclaimed by compactions, since the storage worker started';

CREATE FUNCTION orbit_verify(
	rel regclass DEFAULT NULL,
	OUT relation regclass,
	OUT pages bigint,
	OUT live_rows bigint,
	OUT versions bigint,
	OUT problem text)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE PARALLEL RESTRICTED ROWS 10;
COMMENT ON FUNCTION orbit_verify(regclass) IS 'reads everything that is stored of an orbit table, or of all of this database, and tells what is wrong';
REVOKE EXECUTE ON FUNCTION orbit_verify(regclass) FROM PUBLIC;

/* ---- storages ---- */

CREATE FUNCTION orbit_storages(
	OUT storage bigint,
	OUT database oid,
	OUT relation regclass,
	OUT file text,
	OUT persistence text,
	OUT state text,
	OUT bytes bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION orbit_storages() IS 'storages in RocksDB and the relations they belong to';
REVOKE EXECUTE ON FUNCTION orbit_storages() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION orbit_storages() TO pg_monitor;

CREATE FUNCTION orbit_snapshots(
	OUT name text,
	OUT generation bigint,
	OUT covered_lsn pg_lsn,
	OUT flushed_lsn pg_lsn,
	OUT timeline integer,
	OUT made_at timestamptz,
	OUT files integer,
	OUT bytes bigint,
	OUT held_bytes bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION orbit_snapshots() IS 'snapshots of RocksDB that backups copy';
REVOKE EXECUTE ON FUNCTION orbit_snapshots() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION orbit_snapshots() TO pg_monitor;

CREATE FUNCTION orbit_orphans(
	OUT storage bigint,
	OUT file text,
	OUT bytes bigint)
RETURNS SETOF record
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION orbit_orphans() IS 'files of orbit tables in this database that belong to no relation';
REVOKE EXECUTE ON FUNCTION orbit_orphans() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION orbit_orphans() TO pg_monitor;

CREATE FUNCTION orbit_drop_orphan(storage bigint) RETURNS void
AS 'MODULE_PATHNAME' LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION orbit_drop_orphan(bigint) IS 'deletes a file listed by orbit_orphans(), and its rows';
REVOKE EXECUTE ON FUNCTION orbit_drop_orphan(bigint) FROM PUBLIC;
