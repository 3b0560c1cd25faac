# What the server says and refuses: preload, settings, directories that are not
# ours, backups without RocksDB's files, CREATE DATABASE from a template with
# orbit tables, logical decoding, pg_upgrade.  Nothing refused may be lost or opened.
use strict;
use warnings;

use File::Basename;
use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(start_is_refused);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = PostgreSQL::Test::Cluster->new('main');
$node->init(allows_streaming => 'logical');

# ---- without preload -------------------------------------------------------

$node->start;
my ($rc, $out, $err) = $node->psql('postgres', 'CREATE EXTENSION orbit_fdw');
isnt($rc, 0, 'CREATE EXTENSION without preload is refused');
like($err, qr/orbit_fdw must be loaded at server start/, 'it says why');
like($err, qr/HINT:\s+Add orbit_fdw to shared_preload_libraries/, 'and how to preload');
is($node->safe_psql('postgres', "SELECT count(*) FROM pg_am WHERE amname = 'orbit'"),
	'0', 'nothing is left behind');

# ---- preloaded ----------------------------------------------------------------

$node->append_conf(
	'postgresql.conf', qq(
shared_preload_libraries = 'orbit_fdw'
orbit.write_buffer_size = '256kB'
orbit.flush_interval = '200ms'
));
$node->restart;
$node->safe_psql('postgres', q(
CREATE EXTENSION orbit_fdw;
CREATE TABLE t (id int PRIMARY KEY, v text) USING orbit;
INSERT INTO t SELECT g, repeat('x', g % 100) FROM generate_series(1, 5000) g;
));
my $sum = $node->safe_psql('postgres', 'SELECT count(*), sum(length(v)) FROM t');

my $directory = $node->data_dir . '/orbit';
ok( $node->wait_for_log(qr{LOG:  PostgreSQL using persistent RocksDB storage at: \Q$directory\E$}m),
	'the log line at start names the directory');

$node->safe_psql('postgres', 'SELECT orbit_flush()');
is($node->safe_psql('postgres', 'SELECT string_agg(name, \',\') FROM orbit_column_families()'),
	'pg_data,pg_indexes,pg_tables,pg_metadata', 'column families');
ok(-d "$directory/pgsql_tmp_live", "RocksDB's files lie where base backups skip them");

# ---- settings -------------------------------------------------------------------

# PostgreSQL warns of a wrong value of an extension's setting and uses the default.
sub with_setting
{
	my ($setting, $starts, $pattern, $name) = @_;
	my $conf = $node->data_dir . '/postgresql.auto.conf';
	my $before = slurp_file($conf);
	$node->stop if $node->{_pid};
	append_to_file($conf, "$setting\n");
	my $from = -s $node->logfile;
	is($node->start(fail_ok => 1), $starts, "$name: the server " . ($starts ? 'starts' : 'does not start'));
	# that of the worker may come after the start
	ok($node->wait_for_log($pattern, $from), "$name: the message");
	unlink $conf;
	append_to_file($conf, $before);
}

with_setting("orbit.compression = 'snappy'", 1,
	qr/invalid value for parameter "orbit.compression": "snappy".*HINT:  Available values: none, lz4, zstd/s,
	'unknown compression');
is($node->safe_psql('postgres', 'SHOW orbit.compression'), 'lz4', 'the default is used');
with_setting("orbit.max_write_buffers = 1", 1,
	qr/1 is outside the valid range for parameter "orbit.max_write_buffers" \(2 .. 64\)/,
	'too few buffers');
with_setting("orbit.data_directory = '../elsewhere'", 0,
	qr/FATAL:  invalid value for parameter "orbit.data_directory": "..\/elsewhere"/,
	'a directory outside the data directory');
with_setting("orbit.data_directory = 'base'", 0,
	qr/DETAIL:  This is a directory of PostgreSQL's own/, "one of PostgreSQL's directories");

# Another directory is another RocksDB: tables of the first one are refused, not empty.
with_setting("orbit.data_directory = 'orbit2'", 1,
	qr{persistent RocksDB storage at: \Q@{[$node->data_dir]}\E/orbit2$}m, 'another directory');
$node->safe_psql('postgres', "CREATE TABLE there (i int) USING orbit; INSERT INTO there VALUES (1)");
($rc, $out, $err) = $node->psql('postgres', 'SELECT count(*) FROM t');
like($err, qr/the rows of table "t" are not in RocksDB directory "orbit2".*HINT:/s,
	'a table of the first directory is refused');
$node->stop;
$node->start;
($rc, $out, $err) = $node->psql('postgres', 'SELECT count(*) FROM there');
like($err, qr/the rows of table "there" are not in RocksDB directory "orbit"/, 'and the other way round');
is($node->safe_psql('postgres', 'SELECT count(*), sum(length(v)) FROM t'), $sum,
	'back in the first directory its rows are there');
$node->stop;

# ---- directories that are not ours ---------------------------------------------------

sub refused_with_format
{
	my ($text, $pattern, $name) = @_;
	my $format = "$directory/FORMAT";
	my $before = slurp_file($format);
	unlink $format;
	append_to_file($format, $text);
	my $from = -s $node->logfile;
	is($node->start(fail_ok => 1), 0, "$name: the server does not start");
	like(substr(slurp_file($node->logfile), $from), $pattern, "$name: the message");
	unlink $format;
	append_to_file($format, $before);
}

my $format = slurp_file("$directory/FORMAT");
(my $newer = $format) =~ s/(format\D*)\d+/${1}999/i;
isnt($newer, $format, 'the format version can be read in FORMAT');
refused_with_format($newer, qr/FATAL:.*999.*HINT:/s, 'a newer format');
(my $foreign = $format) =~ s/(\d{10,})/1234567890123456789/;
isnt($foreign, $format, 'the system identifier can be read in FORMAT');
refused_with_format($foreign, qr/FATAL:.*HINT:/s, "another cluster's directory");

# After a shutdown a snapshot has everything; without that one, nothing is made up.
mkdir "$directory/pgsql_tmp_away" or die $!;
rename($_, "$directory/pgsql_tmp_away/" . basename($_)) || die $! for "$directory/pgsql_tmp_live", glob("$directory/snap-*");
my $from = -s $node->logfile;
ok(start_is_refused($node), 'lost files: the server stops');
like(substr(slurp_file($node->logfile), $from), qr/no usable snapshot of RocksDB in directory "orbit"/, 'and says why');
rename($_, "$directory/" . basename($_)) || die $! for glob("$directory/pgsql_tmp_away/*");
rmdir "$directory/pgsql_tmp_away" or die $!;

$node->start;
is($node->safe_psql('postgres', 'SELECT count(*), sum(length(v)) FROM t'), $sum,
	'after all that the rows are there');

# ---- a base backup has no RocksDB files --------------------------------------------------

$node->backup('b');
ok(!-e $node->backup_dir . '/b/orbit/pgsql_tmp_live', "a base backup skips RocksDB's files");
my $copy = PostgreSQL::Test::Cluster->new('copy');
$copy->init_from_backup($node, 'b');
$copy->start;
is($copy->safe_psql('postgres', 'SELECT count(*) FROM t'), $node->safe_psql('postgres', 'SELECT count(*) FROM t'),
	'a server started from it has the rows');
$copy->stop;

# ---- refusals in SQL ------------------------------------------------------------------------

($rc, $out, $err) = $node->psql('postgres', 'CREATE DATABASE copied TEMPLATE postgres');
like($err, qr/cannot create a database from template "postgres".*HINT:/s,
	'CREATE DATABASE from a template with orbit tables');
is($node->psql('postgres', 'CREATE DATABASE plain'), 0, 'from one without');

$node->safe_psql('postgres', "SELECT pg_create_logical_replication_slot('s', 'test_decoding')");
$node->safe_psql('postgres', "INSERT INTO t VALUES (100001, 'decoded')");
($rc, $out, $err) =
  $node->psql('postgres', "SELECT * FROM pg_logical_slot_get_changes('s', NULL, NULL)");
like($err, qr/logical decoding of tables that use access method "orbit" is not supported/,
	'logical decoding is an error, not a silent loss');
$node->safe_psql('postgres', "SELECT pg_drop_replication_slot('s')");

$node->stop;

# ---- pg_upgrade -----------------------------------------------------------------------------------

my $next = PostgreSQL::Test::Cluster->new('next');
$next->init;
$next->append_conf('postgresql.conf', "shared_preload_libraries = 'orbit_fdw'");
my @upgrade = ('pg_upgrade', '--check', '-b', $node->config_data('--bindir'), '-B', $node->config_data('--bindir'), '-d', $node->data_dir,
	'-D', $next->data_dir, '-p', $node->port, '-P', $next->port, '-s', $node->host);
chdir $PostgreSQL::Test::Utils::tmp_check;
command_checks_all(\@upgrade, 1, [ qr/pg_upgrade cannot transfer orbit tables.*postgres.*HINT:/s ], [ qr/^$/ ], 'pg_upgrade --check says that it cannot');
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*), sum(length(v)) FROM t WHERE id < 100000'), $sum, '... and nothing has happened to the rows');
$node->safe_psql('postgres', 'DROP TABLE t');
$node->stop;
command_ok(\@upgrade, 'without orbit tables it goes');
done_testing();
