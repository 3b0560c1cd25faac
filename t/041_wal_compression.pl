# Rows that are written many at a time are compressed in the WAL: they take less of it, and a recovery
# and a standby read the same rows out of it, as they do of records that were not compressed.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use OrbitNode qw(orbit_node orbit_standby kill_all_and_start);

# Nothing but the WAL knows the rows: no flush, and no checkpoint after the first.
my $node = orbit_node('main', { allows_streaming => 1 }, 'autovacuum = off', q{orbit.flush_interval = '1h'},
	q{orbit.write_buffer_size = '16MB'}, q{checkpoint_timeout = '1h'}, 'fsync = off');
my $standby = orbit_standby($node);

sub query { return $node->safe_psql('postgres', $_[0]) }

# A statement, in bytes of WAL.
sub logged
{
	my ($statement, @settings) = @_;
	my $set = join('', map { "SET $_; " } @settings);
	return query("$set SELECT pg_current_wal_insert_lsn() AS begin \\gset\n $statement;\n"
		  . "SELECT pg_current_wal_insert_lsn() - :'begin'::pg_lsn");
}

my %rows = (
	blank => q{SELECT i, 0, repeat(' ', 84) FROM generate_series(1, 2000) i},
	noise => q{SELECT i, 0, noise(i) FROM generate_series(1, 2000) i},
	wide => q{SELECT i, 0, repeat('wide and alike ', 100) FROM generate_series(1, 200) i},
	mixed => q{SELECT i, 0, CASE WHEN i / 500 % 2 = 0 THEN repeat('x', 200) ELSE noise(i) || noise(i + 1) || noise(i + 2) END FROM generate_series(1, 4000) i});

query(q{CREATE FUNCTION noise(i int) RETURNS text LANGUAGE sql AS
	$$ SELECT translate(encode(sha512(i::text::bytea), 'base64'), E'\\n', '') $$});
my %bytes;
query('CHECKPOINT');
for my $kind (sort keys %rows)
{
	for my $how ('lz4', 'none')
	{
		my $t = "${kind}_$how";
		query("CREATE TABLE $t (id int, n int, filler text); ALTER TABLE $t ALTER filler SET STORAGE PLAIN");
		$bytes{$t} = logged("INSERT INTO $t $rows{$kind}", "orbit.wal_compression = $how");
	}
}

# COPY is what writes many rows at a time.
query("COPY (SELECT * FROM blank_none) TO '" . $node->basedir . "/blank'");
query("COPY (SELECT * FROM noise_none) TO '" . $node->basedir . "/noise'");
query("COPY (SELECT * FROM mixed_none) TO '" . $node->basedir . "/mixed'");
for my $kind ('blank', 'noise', 'mixed')
{
	for my $how ('lz4', 'none')
	{
		my $t = "copied_${kind}_$how";
		query("CREATE TABLE $t (id int, n int, filler text)");
		$bytes{$t} = logged("COPY $t FROM '" . $node->basedir . "/$kind'", "orbit.wal_compression = $how");
	}
}
note join(', ', map { "$_ $bytes{$_}" } sort keys %bytes);

cmp_ok($bytes{copied_blank_lz4}, '<', $bytes{copied_blank_none} / 3, 'rows that are alike take less of the WAL');
cmp_ok($bytes{copied_noise_lz4}, '<', $bytes{copied_noise_none} * 1.01, 'those that are not take no more of it');
cmp_ok($bytes{copied_mixed_lz4}, '<', $bytes{copied_mixed_none} * 0.75, 'both kinds in turn: those that are alike do');
cmp_ok($bytes{wide_lz4}, '<', $bytes{wide_none} / 3, 'so does a large row');
cmp_ok($bytes{blank_lz4}, '>', $bytes{blank_none} * 0.9, 'a small row is logged as it is');

# One large row changes: its record has the old row for logical decoding beside the new one.
query("CREATE TABLE changed (LIKE wide_lz4); ALTER TABLE changed REPLICA IDENTITY FULL; ALTER TABLE changed ALTER filler SET STORAGE PLAIN");
query("INSERT INTO changed SELECT * FROM wide_none; UPDATE changed SET n = id, filler = filler || id");
query("DELETE FROM changed WHERE id > 15");

query('CREATE EXTENSION pg_walinspect');
my $records = query(q{SELECT count(*) FROM pg_get_wal_records_info((SELECT redo_lsn FROM pg_control_checkpoint()), pg_current_wal_flush_lsn())
	WHERE resource_manager = 'orbit' AND description ~ 'compressed'});
cmp_ok($records, '>', 0, "the WAL's description says what is compressed ($records records)");

my @tables = ('changed', sort keys %bytes);
my $all = join(' UNION ALL ', map { "SELECT '$_', count(*), md5(string_agg(t::text, ',' ORDER BY id)) FROM $_ t" } @tables) . ' ORDER BY 1';
my $before = query($all);
my %of = map { my ($t, @rest) = split /\|/; $t => "@rest" } split /\n/, $before;
for my $t (grep { /_lz4/ } @tables)
{
	my $other = $t =~ s/_lz4/_none/r;
	is($of{$t}, $of{$other}, "$t: the same rows as without compression");
}

$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', $all), $before, 'the standby has all of it');

kill_all_and_start($node);
is(query($all), $before, 'and so has a recovery');

# Who may choose.
query('CREATE ROLE somebody');
my ($rc, $out, $err) = $node->psql('postgres', 'SET ROLE somebody; SET orbit.wal_compression = none');
like($err, qr/permission denied to set parameter "orbit.wal_compression"/, 'not everybody may change it');
($rc, $out, $err) = $node->psql('postgres', 'SET orbit.wal_compression = zstd');
like($err, qr/invalid value for parameter "orbit.wal_compression": "zstd"/, 'there is LZ4 only');

done_testing();
