# Servers that look for dropped tables all the time, and what they have left.
package OrbitStorages;

use strict;
use warnings;
use Exporter qw(import);
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep);

our @EXPORT_OK = qw(storages_setup storages settled await_storages sst_bytes);

sub storages_setup
{
	my ($node, %how) = @_;
	$node->init(%how);
	$node->append_conf('postgresql.conf', q(
shared_preload_libraries = 'orbit_fdw'
orbit.write_buffer_size = '1MB'
orbit.flush_interval = '300ms'
orbit.collect_interval = '50ms'
orbit.reclaim_delay = 0
orbit.reclaim_threshold = 1
autovacuum = off
max_prepared_transactions = 10
));
	return;
}

# Names of the relations that have storages, sorted; of a storage without one its state.
sub storages
{
	my ($node, $database) = @_;
	return $node->safe_psql($database // 'postgres',
		q(SELECT string_agg(coalesce(relation::text, database || ':' || state), ',' ORDER BY relation::text COLLATE "C")
		  FROM orbit_storages()));
}

# The same when nothing is left to be collected.
sub settled
{
	my ($node, $database) = @_;
	my $names = '';
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$names = storages($node, $database);
		return $names unless $names =~ /:(dropped|unknown)/;
		sleep 0.1;
	}
	return $names;
}

sub await_storages
{
	my ($node, $count, $database) = @_;
	my $now;
	for (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$now = $node->safe_psql($database // 'postgres', 'SELECT count(*) FROM orbit_storages()');
		return 1 if $now == $count;
		sleep 0.1;
	}
	return 0;
}

# SST files that RocksDB names, after the worker has taken notice.
sub sst_bytes
{
	my ($node) = @_;
	$node->safe_psql('postgres', 'SELECT orbit_flush()');
	sleep 2.5;
	return $node->safe_psql('postgres', q(SELECT bytes FROM orbit_column_families() WHERE name = 'pg_data'));
}

1;
