# pgBackRest: full, differential and incremental backups under load, each restored into an empty
# directory and over one that is in use (--delta), up to the backup's end, to a point and to the
# end of the archived WAL.  An incremental backup copies the new files of RocksDB only.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use JSON::PP qw(decode_json);
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use OrbitNode qw(write_file);
use OrbitBackup qw(backup_node load_start load_stop load_for done_count mark copy_is_right adopt has_orbit run_ok run_fails);

srand($ENV{ORBIT_SEED} // 1);
my $node = backup_node('primary', 'archive_mode = on', q{archive_timeout = '10s'}, q{orbit.reclaim_threshold = 20}, q{orbit.snapshot_keep = '1s'});
my $base = PostgreSQL::Test::Utils::tempdir();
my $config = "$base/pgbackrest.conf";
my @rest = ('pgbackrest', "--config=$config", '--stanza=orbit', '--log-level-console=warn');

mkdir "$base/$_" for 'repo', 'log', 'lock', 'spool';
write_file($config, join("\n", '[global]', "repo1-path=$base/repo", "log-path=$base/log", "lock-path=$base/lock", "spool-path=$base/spool",
		'compress-type=lz4', 'start-fast=y', 'process-max=2', '[orbit]', 'pg1-path=' . $node->data_dir, 'pg1-port=' . $node->port,
		'pg1-socket-path=' . $node->host, ''));

run_ok('stanza-create', @rest, 'stanza-create');
$node->append_conf('postgresql.conf', "archive_command = 'pgbackrest --config=$config --stanza=orbit archive-push %p'");
$node->reload;
run_ok('check', @rest, 'check');

my (%label, %at_least);

sub info
{
	my ($json, $err) = run_command([ @rest, 'info', '--output=json' ]);
	return @{ decode_json($json)->[0]{backup} };
}

sub backup
{
	my ($name, $type) = @_;
	$at_least{$name} = done_count($node);
	run_ok("backup: $name", @rest, "--type=$type", 'backup');
	$label{$name} = (info())[-1]{label};
	return;
}

my $load = load_start($node);
load_for($node, 60);
backup('full', 'full');
load_for($node, 60);
backup('diff', 'diff');
load_for($node, 60);
backup('incr', 'incr');
mark($node, 1);
my $marked = done_count($node);
$node->safe_psql('postgres', q{SELECT pg_create_restore_point('mark')});
load_for($node, 60);
load_stop($node, $load);
mark($node, 2);
$at_least{$_} = done_count($node) for 'quiet', 'end';
$node->safe_psql('postgres', 'CHECKPOINT');
backup('before_quiet', 'incr');
$node->safe_psql('postgres', q{CALL twin('UPDATE bk_rows_1_@ SET v = v + 1 WHERE k < 20')});
backup('quiet', 'incr');

# ---- what an incremental backup copies -------------------------------------------------------------------

my %bytes = map { $_->{label} => $_->{info}{repository}{delta} } info();
note(join(', ', map { "$_ $bytes{ $label{$_} } bytes" } 'full', 'diff', 'incr', 'before_quiet', 'quiet'));
if (has_orbit())
{
	my $manifest = slurp_file("$base/repo/backup/orbit/$label{quiet}/backup.manifest");
	my @files = grep { m{^pg_data/orbit/sst/} } split /\n/, $manifest;
	my $new = 0;
	my $all = 0;
	for (@files)
	{
		my ($size) = /"size":(\d+)/;
		$all += $size;
		$new += $size unless /"reference":/;
	}
	cmp_ok($all, '>', 300000, 'files of RocksDB: ' . @files . ", $all bytes");
	cmp_ok($new, '<', $all / 2, "an incremental backup copies new ones only: $new bytes");
	unlike($manifest, qr/pgsql_tmp/, 'the live directory is in none');
}

# ---- restores ----------------------------------------------------------------------------------------------

sub restore
{
	my ($server, $what, @options) = @_;
	run_ok("restore: $what", @rest, '--pg1-path=' . $server->data_dir, @options, 'restore');
	adopt($server, 'archive_mode = off', 'wal_keep_size = 0');
	$server->start;
	return;
}

sub empty_server
{
	my ($name) = @_;
	my $server = PostgreSQL::Test::Cluster->new($name);
	mkdir $server->basedir;
	mkdir $server->data_dir, oct(700);
	return $server;
}

my @to_its_end = ('--type=immediate', '--target-action=promote');
my $copy = empty_server('copy');
restore($copy, 'full', "--set=$label{full}", @to_its_end);
copy_is_right($copy, 'full', $at_least{full}, marks => '');

# Over a server that has written and compacted since: files with the same names are others.
my $first = 1;
for my $name ('incr', 'diff')
{
	$copy->stop($first-- > 0 ? 'fast' : 'immediate');
	unlink $copy->data_dir . '/postmaster.pid';
	restore($copy, "$name, over a server", '--delta', "--set=$label{$name}", @to_its_end);
	copy_is_right($copy, "$name, over a server", $at_least{$name}, marks => '');
}
$copy->stop;

my $point = empty_server('point');
restore($point, 'to a point', "--set=$label{diff}", '--type=name', '--target=mark', '--target-action=promote');
copy_is_right($point, 'to a point', $marked, marks => '1');
$point->stop;

my $end = empty_server('end');
restore($end, 'to the end of the log', "--set=$label{quiet}");
copy_is_right($end, 'to the end of the log', $at_least{end}, marks => '1,2');
$end->stop;

run_ok('verify', @rest, 'verify');
$node->stop;
done_testing();
