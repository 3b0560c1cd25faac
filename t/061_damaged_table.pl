# Damaged and missing files: an error that names file and relation, never a wrong or a missing
# row; orbit_verify() finds it and goes on with other tables; rows elsewhere stay readable.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node start_is_refused write_file);
use Test::More;

my $node = orbit_node('main', q{orbit.flush_interval = '1h'}, q{orbit.write_buffer_size = '4MB'},
	q{orbit.compression = 'none'}, q{orbit.bottommost_compression = 'none'}, q{autovacuum = off});

sub sql { return $node->safe_psql('postgres', shift) }

sub fails
{
	my ($sql) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $sql);
	return $status == 0 ? "no error, but: $out" : $err;
}

my $live = $node->data_dir . '/orbit/pgsql_tmp_live';

# Two tables, each with a file of its own (a load of more than 256 kB).
for my $table ('good', 'bad')
{
	sql("CREATE TABLE $table (id int PRIMARY KEY, t text) USING orbit;
		INSERT INTO $table SELECT g, '$table' || g || repeat('$table', 20) FROM generate_series(1, 5000) g;
		SELECT orbit_flush()");
}
my %sums = map { $_ => sql("SELECT count(*), sum(id), sum(hashtext(t)::bigint) FROM $_") } ('good', 'bad');

sub slurp
{
	my ($file) = @_;
	open(my $fh, '<:raw', $file) or die "$file: $!";
	local $/;
	return <$fh>;
}

my ($file) = grep { index(slurp($_), 'bad2500bad') >= 0 } glob("$live/*.sst");
ok(defined $file, 'the table has a file');
my ($name) = $file =~ m{([^/]+)$};
my $bytes = slurp($file);

# ---- a flipped byte in the middle of the file
$node->stop;
my $broken = $bytes;
substr($broken, index($bytes, 'bad2500bad'), 1) = 'B';
write_file($file, $broken);
$node->start;
like(fails('SELECT sum(id) FROM bad'), qr/\Q$name\E/, 'a scan stops with an error that names the file');
like(fails('SELECT sum(id) FROM bad'), qr/table "?(public\.)?bad/, '... and the table');
like(fails('SET enable_seqscan = off; SELECT t FROM bad WHERE id = 2500'), qr/\Q$name\E/, 'so does a read by index');
like(fails('SET enable_seqscan = off; SELECT t FROM bad WHERE id = 2500'), qr/table "?(public\.)?bad/, '... and names the table');
is(sql('SET enable_seqscan = off; SELECT id FROM bad WHERE id = 1'), 1, 'rows of other blocks are readable');
is(sql('SELECT count(*), sum(id), sum(hashtext(t)::bigint) FROM good'), $sums{good}, 'the other table is whole');
like(sql(q{SELECT problem FROM orbit_verify('bad')}), qr/\Q$name\E/, 'orbit_verify() finds it');
is(sql(q{SELECT relation, problem IS NULL FROM orbit_verify() ORDER BY 1}), "good|t\nbad|f", '... among all tables');
like(fails('CREATE TABLE copy USING orbit AS SELECT * FROM bad'), qr/\Q$name\E/, 'no copy with a hole is made');
is(sql(q{INSERT INTO good VALUES (0, 'new') RETURNING id}), 0, 'the server goes on');
sql('DELETE FROM good WHERE id = 0; SELECT orbit_flush()');

# ---- put back, everything is there
$node->stop;
write_file($file, $bytes);
$node->start;
is(sql("SELECT count(*), sum(id), sum(hashtext(t)::bigint) FROM $_"), $sums{$_}, "$_ is whole again") for ('good', 'bad');
is(sql('SELECT count(*) FROM orbit_verify() WHERE problem IS NOT NULL'), 0, 'nothing to complain of');

# ---- a missing file: RocksDB cannot be opened, and says which
$node->stop;
unlink($file) or die $!;
my $from = -s $node->logfile;
ok(start_is_refused($node), 'without the file the server does not start');
like(substr(slurp($node->logfile), $from), qr/could not open RocksDB.*\Q$name\E/s, 'the log names it');
ok(!-e $file, 'and nothing was made up in its place');
write_file($file, $bytes);
$node->start;
is(sql("SELECT count(*), sum(id), sum(hashtext(t)::bigint) FROM bad"), $sums{bad}, 'put back, it starts and has its rows');

# ---- a flipped byte in the MANIFEST
$node->stop;
my ($manifest) = glob("$live/MANIFEST-*");
my $whole = slurp($manifest);
$broken = $whole;
substr($broken, length($whole) / 2, 1) = chr(ord(substr($whole, length($whole) / 2, 1)) ^ 0x55);
write_file($manifest, $broken);
$from = -s $node->logfile;
ok(start_is_refused($node), 'with a damaged MANIFEST the server does not start');
like(substr(slurp($node->logfile), $from), qr/could not open RocksDB storage/, 'and says why');
write_file($manifest, $whole);
$node->start;
is(sql("SELECT count(*), sum(id), sum(hashtext(t)::bigint) FROM $_"), $sums{$_}, "$_ is there when it is put back") for ('good', 'bad');
$node->stop;
done_testing();
