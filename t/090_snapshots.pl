# Snapshots of RocksDB for backups: when they are made, what is in them, and when they go.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use OrbitNode qw(orbit_node);

my $node = orbit_node('snap', { allows_streaming => 1 }, q{autovacuum = off}, q{orbit.snapshot_keep = 0});
my $dir = $node->data_dir . '/orbit';

sub sql { return $node->safe_psql('postgres', shift) }
sub snapshots { return map { m{([^/]+)$} } sort glob("$dir/snap-*") }

sql(q{CREATE TABLE t (id int PRIMARY KEY, v text) USING orbit; INSERT INTO t SELECT g, 'row ' || g FROM generate_series(1, 1000) g});
sql('CHECKPOINT');
ok(scalar(snapshots()), 'a checkpoint makes a snapshot');
$node->backup('b1');
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($node, 'b1');
$copy->start;
is($copy->safe_psql('postgres', 'SELECT count(*), sum(id) FROM t'), '1000|500500', 'a plain base backup has the rows');
$copy->stop;
$node->stop;
done_testing();
