# Servers for the TAP tests: PostgreSQL's own test cluster with the extension
# loaded, orbit as the default, and write buffers as small as they can be.
package OrbitNode;

use strict;
use warnings;
use Exporter qw(import);
use PostgreSQL::Test::Cluster;

our @EXPORT_OK = qw(orbit_node);

# orbit_node(name, settings...): initialized and started, with the extension.
sub orbit_node
{
	my ($name, @settings) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(allows_streaming => 0);
	$node->append_conf(
		'postgresql.conf', join("\n",
			q{shared_preload_libraries = 'orbit_fdw'},
			q{orbit.write_buffer_size = '256kB'},
			q{orbit.max_write_buffers = 3},
			q{orbit.block_cache_size = '1MB'},
			q{orbit.flush_interval = '200ms'},
			q{shared_buffers = '16MB'},
			q{autovacuum_naptime = '1s'},
			q{max_prepared_transactions = 20},
			@settings, ''));
	$node->start;
	$node->safe_psql('template1', 'CREATE EXTENSION orbit_fdw');
	$node->safe_psql('postgres', 'CREATE EXTENSION orbit_fdw');
	return $node;
}

1;
