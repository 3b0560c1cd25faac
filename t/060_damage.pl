# Damaged, missing and outdated files of RocksDB.  Whatever is damaged, the server either
# does not start and says why, or a query fails with an error, or its answer is right.
# Never are rows missing; and what is not damaged goes on being read and written.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use OrbitDamage qw(flip flip_a_bit);
use OrbitNode qw(orbit_node);

my $seed = $ENV{ORBIT_SEED} // 1;
srand($seed);

my $node = orbit_node('damage', 'autovacuum = off', q{orbit.flush_interval = '1h'}, 'fsync = off');
my $data = $node->data_dir;
my $live = "$data/orbit/pgsql_tmp_live";
my $good = $node->basedir . '/good';
my $old = $node->basedir . '/old';

sub run_or_die
{
	system(@_) == 0 or die "@_";
	return;
}

# ---- two tables, many flushes ------------------------------------------------------------

$node->safe_psql('postgres', q{
CREATE TABLE a (i int PRIMARY KEY, v text) USING orbit;
CREATE TABLE b (i int PRIMARY KEY, v text) USING orbit;
INSERT INTO a SELECT g, md5(g::text) || md5((g + 1)::text) FROM generate_series(1, 20000) g;
INSERT INTO b SELECT g, md5(g::text) FROM generate_series(1, 500) g;
});
$node->stop;
run_or_die('cp', '-a', $live, $old);
$node->start;
$node->safe_psql('postgres', "UPDATE b SET v = v || 'x' WHERE i % 50 = $_; SELECT orbit_flush()") for 0 .. 9;
$node->safe_psql('postgres', 'DELETE FROM a WHERE i % 1000 = 0');

my %query = map { $_ => "SELECT count(*), sum(hashtextextended(${_}::text, 0)) FROM $_" } qw(a b);
my %right = map { $_ => $node->safe_psql('postgres', $query{$_}) } keys %query;
$node->stop;
run_or_die('cp', '-a', $data, $good);

# ---- tools ---------------------------------------------------------------------------------

sub manifest
{
	my $name = slurp_file("$live/CURRENT");
	chomp $name;
	return "$live/$name";
}

sub sst_files
{
	return sort { -s $b <=> -s $a || $a cmp $b } glob("$live/*.sst");
}

# Where the records of a RocksDB log begin: blocks of 32 kB, headers of checksum (4), length (2), type (1).
sub records
{
	my ($file) = @_;
	my $bytes = slurp_file($file);
	my @at;
	for (my $p = 0; $p + 7 <= length $bytes;)
	{
		my $room = 32768 - $p % 32768;
		my $len = unpack 'v', substr($bytes, $p + 4, 2);
		if ($room < 7 || $len == 0)
		{
			$p += $room;
			next;
		}
		push @at, $p;
		$p += 7 + $len;
	}
	return @at;
}

# Starts with the damage done.  What became of each table: its answer is right or wrong, an error with
# its SQLSTATE, or no server.  The server's log comes last.
sub outcome
{
	my ($damage) = @_;
	run_or_die('rm', '-rf', $data);
	run_or_die('cp', '-a', $good, $data);
	$damage->();
	my $from = -s $node->logfile;
	$node->start(fail_ok => 1);
	my %got;
	for my $table (sort keys %query)
	{
		my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$query{$table}");
		$got{$table} = $rc == 2 ? 'no server' : $err =~ /ERROR:\s+(\w+):/ ? $1 : $out eq $right{$table} ? 'right' : "wrong: $out";
		# an error in the middle of the shutdown that follows a refusal
		$got{$table} = 'no server' if $got{$table} =~ /^57P0/;
	}
	return (@got{ 'a', 'b' }, substr(slurp_file($node->logfile), $from));
}

sub stop
{
	$node->stop($_[0] // 'immediate', fail_ok => 1);
	return;
}

sub refused
{
	my ($name, $pattern, $damage) = @_;
	my ($a, $b, $log) = outcome($damage);
	is("$a, $b", 'no server, no server', "$name: the server does not start");
	like($log, $pattern, "$name: it says why");
	unlike($log, qr/PANIC|terminated by signal/, "$name: nothing crashes");
	stop();
	return;
}

# ---- nothing ----------------------------------------------------------------------------------

is(join(' ', (outcome(sub { }))[ 0, 1 ]), 'right right', 'undamaged');
stop('fast');

# ---- the MANIFEST --------------------------------------------------------------------------------

my $lost = qr/FATAL:  RocksDB storage in directory "orbit" has lost its latest changes\n.*DETAIL:  It stands at generation \d+, but stood at \d+/;

refused('RocksDB comes from an older copy', $lost,
	sub { run_or_die('rm', '-rf', $live); run_or_die('cp', '-a', $old, $live) });

# To RocksDB both are the ends of a write that was cut off.  What it then takes for the latest version may name
# files that have been deleted since.
my $lost_or_missing = qr/$lost|FATAL:.*Corruption.*\.sst/;
refused('the end of the MANIFEST is missing', $lost_or_missing,
	sub { truncate manifest(), int(0.7 * -s manifest()) or die $! });
refused('the length of a record in the MANIFEST is damaged', $lost_or_missing,
	sub { my @at = records(manifest()); flip(manifest(), $at[ int(0.7 * @at) ] + 5, 0xff) });
refused('an early record of the MANIFEST is damaged', qr/FATAL:.*(?:Corruption|lost its latest changes)/,
	sub { my @at = records(manifest()); flip(manifest(), $at[2] + 5, 0xff) });
refused('the MANIFEST is empty', qr/FATAL:/, sub { truncate manifest(), 0 or die $! });
refused('a byte of the MANIFEST is flipped', qr/FATAL:.*Corruption/,
	sub { flip(manifest(), int(0.5 * -s manifest()), 0x04) });
refused('the MANIFEST is missing', qr/FATAL:/, sub { unlink manifest() or die $! });
refused('CURRENT is missing', qr/FATAL:.*RocksDB's files in directory "orbit" are missing/,
	sub { unlink "$live/CURRENT" or die $! });

# ---- the guard itself ------------------------------------------------------------------------------

refused('REACHED is damaged', qr/FATAL:  file "orbit\/REACHED" is damaged/,
	sub { truncate "$data/orbit/REACHED", 3 or die $! });
is(join(' ', (outcome(sub { unlink "$data/orbit/REACHED" or die $! }))[ 0, 1 ]),
	'right right', 'without REACHED the server starts');
$node->safe_psql('postgres', 'INSERT INTO b VALUES (501); CHECKPOINT');
like(slurp_file("$data/orbit/REACHED"), qr/^generation \d+\n\z/, 'and a checkpoint writes it again');
stop();

# ---- SST files -----------------------------------------------------------------------------------------

refused('an SST file is missing', qr/FATAL:.*\.sst.*HINT:.*damaged or missing/s,
	sub { unlink((sst_files())[0]) or die $! });
refused('an SST file is too short', qr/FATAL:.*\.sst/,
	sub { my ($file) = sst_files(); truncate $file, int(-s $file) / 2 or die $! });

my ($a, $b, $log) = outcome(sub { my ($file) = sst_files(); flip($file, int(-s $file) / 3, 0x20) });
is("$a, $b", 'XX001, right', 'a byte of an SST file is flipped: its table says so, the other can be read');
is($node->safe_psql('postgres', 'SELECT count(v) FROM a WHERE i = 1'), 1, 'other rows of the table can be read');
# so often that compaction meets the damaged block
$node->safe_psql('postgres', "UPDATE a SET v = 'new' WHERE i = 1; UPDATE b SET v = 'new' WHERE i = $_; SELECT orbit_flush()")
  for 1 .. 12;
ok($node->wait_for_log(qr/could not compact column family pg_data: Corruption/), 'compaction reports it');
$node->safe_psql('postgres', "UPDATE a SET v = 'newer' WHERE i = 1; UPDATE b SET v = 'newer' WHERE i = 1; SELECT orbit_flush(); CHECKPOINT");
is($node->safe_psql('postgres', 'SELECT a.v, b.v, (SELECT count(*) FROM b) FROM a, b WHERE a.i = 1 AND b.i = 1'),
	'newer|newer|500', 'and rows are written, flushed and checkpointed all the same');
stop('fast');
$node->start;
is($node->safe_psql('postgres', 'SELECT a.v, b.v, (SELECT count(*) FROM b) FROM a, b WHERE a.i = 1 AND b.i = 1'),
	'newer|newer|500', 'also over a restart');
stop();

# Any file, any byte.
for my $try (1 .. $ENV{ORBIT_DAMAGE} // 12)
{
	my $where;
	my ($a, $b, $log) = outcome(
		sub {
			my @files = ((sst_files())[ 0 .. 3 ], sst_files(), manifest(), "$live/CURRENT");
			my $file = $files[ rand @files ];
			($where) = flip_a_bit($file, int rand -s $file);
		});
	ok((grep { /^(?:right|no server|XX001|58030)$/ } $a, $b) == 2, "$where: $a, $b");
	unlike($log, qr/PANIC|terminated by signal/, 'and nothing crashes');
	stop();
}
done_testing();
