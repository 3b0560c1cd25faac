# Read errors and flipped bytes, met in the middle of whatever reads: an ERROR that names the file
# and the table, after which the session goes on; and what is answered is right.  Never a wrong or a missing row.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use OrbitDamage qw(flip flip_a_bit);
use OrbitFaults qw(use_faults set_fault clear_faults fault_hits);
use OrbitNode qw(orbit_node in_background wait_done eventually);
use OrbitSession;

my $seed = $ENV{ORBIT_SEED} // int(time) % 100000;
srand($seed);
note("ORBIT_SEED=$seed");

my $node = orbit_node('io', 'autovacuum = off', q{orbit.flush_interval = '1h'}, q{orbit.reclaim_delay = '1h'},
	q{checkpoint_timeout = '1h'}, q{orbit.write_buffer_size = '8MB'}, q{orbit.compression = 'none'}, q{orbit.bottommost_compression = 'none'},
	'log_statement = none', 'log_error_verbosity = verbose', 'fsync = off', 'max_parallel_workers = 2');
use_faults($node);

sub sql { return $node->safe_psql('postgres', $_[0]) }

# More than the block cache holds; deltas above it.
sql(q{
CREATE TABLE a (id int PRIMARY KEY, k int, v text) USING orbit;
CREATE TABLE b (id int PRIMARY KEY, v text) USING orbit;
CREATE TABLE child (id int REFERENCES a) USING orbit;
INSERT INTO a SELECT g, g % 1000, md5(g::text) || md5((g + 1)::text) || repeat('x', 100) FROM generate_series(1, 15000) g;
INSERT INTO b SELECT g, md5(g::text) FROM generate_series(1, 500) g;
CREATE INDEX a_k ON a (k);
SELECT orbit_flush();
UPDATE a SET v = v || 'y' WHERE id % 50 = 0;
DELETE FROM a WHERE id % 1000 = 1;
UPDATE b SET v = v || 'z' WHERE id % 5 = 0;
SELECT orbit_flush();
ANALYZE a;
CREATE FUNCTION plan(what text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config(s, CASE WHEN s = 'enable_' || what || 'scan' THEN 'on' ELSE 'off' END, false)
	FROM unnest(ARRAY['enable_seqscan', 'enable_indexscan', 'enable_bitmapscan', 'enable_indexonlyscan']) s;
	PERFORM set_config('max_parallel_workers_per_gather', '0', false);
END $$;
});

# What reads: name, statements before it, the statement.  In a transaction that is rolled back where it writes.
my $sum = 'SELECT count(*), sum(id), sum(hashtextextended(a::text, 0)) FROM a';
my @reads = (
	[ 'sequential scan', q{SELECT plan('seq')}, $sum ],
	[ 'index scan', q{SELECT plan('index')}, "$sum WHERE id > 0" ],
	[ 'point reads', q{SELECT plan('index')}, 'SELECT sum(length(s.v)) FROM generate_series(1, 15000, 40) g, LATERAL (SELECT v FROM a WHERE id = g) s' ],
	[ 'bitmap scan', q{SELECT plan('bitmap')}, "$sum WHERE k BETWEEN 10 AND 300" ],
	[ 'parallel scan', q{SELECT plan('seq'); SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0}, $sum ],
	[ 'parallel bitmap scan', q{SELECT plan('bitmap'); SET max_parallel_workers_per_gather = 2}, "$sum WHERE k BETWEEN 10 AND 800" ],
	[ 'TABLESAMPLE', q{SELECT plan('seq')}, 'SELECT count(*), sum(id) FROM a TABLESAMPLE SYSTEM (50) REPEATABLE (3)' ],
	[ 'FOR UPDATE', q{SELECT plan('index'); BEGIN}, 'SELECT count(*) FROM (SELECT FROM a WHERE id BETWEEN 3000 AND 3200 FOR UPDATE) s' ],
	[ 'UPDATE', q{SELECT plan('index'); BEGIN}, q{WITH u AS (UPDATE a SET v = 'u' WHERE id % 97 = 3 RETURNING id) SELECT count(*), sum(id) FROM u} ],
	[ 'DELETE', q{SELECT plan('seq'); BEGIN}, 'WITH d AS (DELETE FROM a WHERE k = 77 RETURNING id) SELECT count(*), sum(id) FROM d' ],
	[ 'ON CONFLICT', q{SELECT plan('index'); BEGIN}, q{WITH i AS (INSERT INTO a SELECT g, 0, 'c' FROM generate_series(1, 15000, 100) g ON CONFLICT (id) DO UPDATE SET k = a.k + 1 RETURNING a.k) SELECT count(*), sum(k) FROM i} ],
	[ 'a foreign key', q{SELECT plan('index'); BEGIN}, 'WITH i AS (INSERT INTO child SELECT g FROM generate_series(2, 15000, 700) g RETURNING id) SELECT count(*) FROM i' ],
	[ 'an index build', q{BEGIN}, 'CREATE INDEX made ON a (v)' ],
	[ 'a parallel index build', q{BEGIN; ALTER TABLE a SET (parallel_workers = 2)}, 'CREATE INDEX made ON a (v)' ],
	[ 'a copy', q{BEGIN}, 'CREATE TABLE copy AS TABLE a; SELECT count(*), sum(hashtextextended(copy::text, 0)) FROM copy' ],
	[ 'CLUSTER', q{BEGIN}, "CLUSTER a USING a_k; $sum" ],
	[ 'ANALYZE', '', 'ANALYZE a' ],
	[ 'VACUUM', '', 'VACUUM (DISABLE_PAGE_SKIPPING, PARALLEL 0) a' ]);

my $session = OrbitSession->new($node, 'postgres', 60);

# Sends a statement after its preparation and ends the transaction; the answer.
sub run
{
	my ($read) = @_;
	my ($name, $before, $statement) = @$read;
	$session->ask($before) if $before ne '';
	my $got = $session->ask($statement) // BAIL_OUT("$name hangs");
	$session->ask('ROLLBACK') if $before =~ /BEGIN/;
	return $got;
}

my %right = map { $_->[0] => run($_) } @reads;
like($right{$reads[0][0]}, qr/^14985\|/, 'what is right');

my $named = qr/ERROR:  could not (?:read table "?(?:public\.)?a"? from|open|bring) RocksDB storage.*: .*made up by a test.*\.sst/;

# The file that holds the table, but for what was changed later.
my $live = $node->data_dir . '/orbit/pgsql_tmp_live';
my ($largest) = sort { -s $b <=> -s $a } glob("$live/*.sst");
my ($name) = $largest =~ m{([^/]+)$};

# No compaction may replace it: one would wait at its first write.
set_fault($node, 'worker', 'write', '*live/*.sst', 'wait');

my $control = OrbitSession->new($node, 'postgres', 60);
my $fault;
sub fault { $fault = set_fault($control, @_); return $fault }
sub unfault { clear_faults($control, $fault); return }

# ---- the next reads fail --------------------------------------------------------------------------

for my $read (@reads)
{
	# more than one: RocksDB tries again what it wanted to read ahead, VACUUM does without summaries
	fault('backends', 'read', "*live/$name", 'eio', 0, 12);
	my $got = run($read);
	# a parallel worker opens RocksDB itself
	my $what = qr/read table "?(?:public\.)?a"? from/;
	$what = qr/$what|open/ if $read->[0] =~ /parallel/;
	# it has flushed, and first looks for what is new
	$what = qr/$what|bring/ if $read->[0] eq 'VACUUM';
	like($got, qr/^ERROR:  could not (?:$what) RocksDB storage.*: .*made up by a test.*$name/, "$read->[0]: an error names file and table");
	unfault();
	is(run($read), $right{ $read->[0] }, "$read->[0]: right when the fault is gone");
}

# ---- reads fail until the fault is cleared ---------------------------------------------------------

# RocksDB is opened anew after an error, and then says which file keeps it from that.
fault('backends', 'read', "*live/$name", 'eio');
for my $read (@reads)
{
	like(run($read), $named, "$read->[0]: fails as long as the fault is there");
}
my ($rc, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\nSELECT count(*) FROM a");
like($err, qr/ERROR:  58030: could not (?:read table|open RocksDB)/, 'a new session: its SQLSTATE');
like(sql(q{SELECT problem FROM orbit_verify('a')}), qr/\.sst/, 'orbit_verify() says it');
unfault();
is(run($_), $right{ $_->[0] }, "$_->[0]: right when the fault is gone for good") for @reads;

# ---- one read fails -------------------------------------------------------------------------------------

my %errors = (error => 0, right => 0);
for my $read (@reads)
{
	my @wrong;
	for my $skip (1, 6, 30)
	{
		fault('backends', 'read', '*live/*.sst', 'eio', $skip, 1);
		my $got = run($read);
		unfault();
		$errors{ $got eq $right{ $read->[0] } ? 'right' : 'error' }++;
		push @wrong, "$skip: $got" unless $got eq $right{ $read->[0] } || $got =~ $named;
	}
	is(join('; ', @wrong), '', "$read->[0]: one read fails: an error, or it is right");
}
cmp_ok($errors{error}, '>', @reads / 2, "$errors{error} errors, $errors{right} answers");
is(run($_), $right{ $_->[0] }, "$_->[0]: right afterwards") for @reads;

# Files that cannot be opened, MANIFEST and CURRENT that cannot be read: by a new process.
for my $case ([ 'open', '*.sst' ], [ 'read', '*MANIFEST*' ], [ 'open', '*MANIFEST*' ], [ 'read,open', '*CURRENT' ])
{
	my ($calls, $files) = @$case;
	for my $times (0, 1)
	{
		fault('backends', $calls, $files, 'eio', 0, $times);
		($rc, $out, $err) = $node->psql('postgres', "$sum;\nSELECT orbit_fault_clear($fault);\n$sum", on_error_stop => 0);
		unfault();
		my @got = grep { $_ ne '' } split /\n/, $out;
		my $what = sprintf('%s of %s fails %s', $calls, $files, $times ? 'once' : 'each time');
		like($err, qr/ERROR: .*made up by a test/, "$what: an error") unless $times;
		is(join(';', grep { $_ ne $right{'sequential scan'} } @got), '', "$what: nothing wrong is answered");
		is($got[-1], $right{'sequential scan'}, '... and the session goes on');
	}
}

clear_faults($node);
$_->quit for $session, $control;

# ---- the worker ---------------------------------------------------------------------------------------------

sub log_end { return -s $node->logfile }

# Counters of a table that has not been met since the start are read by the flush.
$node->restart;
is(sql('SELECT count(*) FROM b'), 500, 'a new start');
my $from = log_end();
set_fault($node, 'worker', 'read', '*live/*.sst', 'eio');
sql(q{INSERT INTO b VALUES (1001, 'new'); UPDATE a SET v = v WHERE id = 5000});
my $flush = in_background($node, 'SELECT orbit_flush()');
ok($node->wait_for_log(qr/58030: could not flush a write buffer: IO error: made up by a test: .*\.sst/, $from),
	'reads fail in the worker: a flush says so');
is(sql('SELECT count(*) FROM b'), 501, 'reads fail in the worker: rows are read');
clear_faults($node);
ok(wait_done($node, 'SELECT orbit_flush()'), 'the flush goes on');
eval { $flush->quit };
is(sql('SELECT count(*) FROM b'), 501, 'and nothing is lost');

# A compaction stands still at its first write; then what it has not read yet cannot be read.
$from = log_end();
$node->append_conf('postgresql.conf', "orbit.reclaim_delay = 0\norbit.reclaim_threshold = 0\n");
my $reported = 0;
for (1 .. 30)
{
	my $hold = set_fault($node, 'worker', 'write', '*live/*.sst', 'wait');
	$node->reload;
	$node->poll_query_until('postgres', "SELECT orbit_fault_hits($hold) > 0") or die 'no compaction comes';
	set_fault($node, 'worker', 'read', '*live/*.sst', 'eio');
	clear_faults($node, $hold);
	for (1 .. 10)
	{
		$reported = $node->log_contains(qr/58030: could not (?:reclaim space of orbit tables|compact column family \w+): IO error: made up by a test: .*\.sst/, $from);
		last if $reported;
		sleep 0.1;
	}
	last if $reported;
	clear_faults($node);
}
ok($reported, 'compaction: the log names the file');
is(sql('SELECT count(*) FROM b'), 501, 'rows are read all the same');
clear_faults($node);
$node->append_conf('postgresql.conf', "orbit.reclaim_delay = '1h'\norbit.reclaim_threshold = 20\n");
$node->reload;
$session = OrbitSession->new($node, 'postgres', 60);
is(run($reads[0]), $right{'sequential scan'}, 'right after a new start');
sql('DELETE FROM b WHERE id = 1001; SELECT orbit_flush()');
$session->quit;

# ---- flipped bytes ----------------------------------------------------------------------------------------------

# Files are read by new processes: no cache knows them.
$node->restart;
my %query = map { $_ => "SELECT count(*), sum(hashtextextended(${_}::text, 0)) FROM $_" } qw(a b);
my %sums = map { $_ => sql($query{$_}) } keys %query;

# Regions of a table file, from its end: footer; index of its parts, properties; filter and index; rows.
sub position
{
	my ($size) = @_;
	my $region = int rand 4;
	my $length = $region == 0 ? 53 : $region == 1 ? 2500 : $region == 2 ? 12000 : $size;
	$length = $size if $length > $size;
	return $size - 1 - int rand $length;
}

my %seen = (right => 0, error => 0, verify => 0);
my @wrong;
my @missed;
my $tries = $ENV{ORBIT_DAMAGE} // 60;
my $files = '';
# files that the server before has left go when the new one finds them
ok(eventually(sub { my $before = $files; sleep 1; $files = join ' ', glob("$live/*"); return $files eq $before }), 'no file goes any more');
for my $try (1 .. $tries)
{
	my @sst = sort { -s $b <=> -s $a || $a cmp $b } glob("$live/*.sst");
	my $file = $try % 10 == 0 ? (glob("$live/MANIFEST-*"))[0] : $try % 10 == 5 ? "$live/CURRENT"
	  : rand() < 0.6 ? $sst[ rand(@sst < 4 ? @sst : 4) ] : $sst[ rand @sst ];
	my $at = $file =~ /sst$/ ? position(-s $file) : int rand -s $file;
	my ($where, $mask) = flip_a_bit($file, $at);
	my ($rc, $out, $err) = $node->psql('postgres',
		"\\set VERBOSITY verbose\n\\set ON_ERROR_STOP 0\n\\echo a\n$query{a};\n\\echo b\n$query{b};\n\\echo index\n" .
		"SET enable_seqscan = off; SELECT count(*), sum(hashtextextended(a::text, 0)) FROM a WHERE id > 0;\n\\echo verify\nSELECT relation FROM orbit_verify() WHERE problem IS NOT NULL;",
		on_error_stop => 0);
	flip($file, $at, $mask);
	my ($got_a, $got_b, $index, $verify) = $out =~ /^a\n(.*)^b\n(.*)^index\n(.*)^verify\n?(.*)\z/ms;
	chomp($got_a, $got_b, $index, $verify);
	my $good = $got_a =~ /^(?:\Q$sums{a}\E)?$/ && $index =~ /^(?:\Q$sums{a}\E)?$/ && $got_b =~ /^(?:\Q$sums{b}\E)?$/;
	my @codes = $err =~ /ERROR:\s+(\w+):/g;
	my $whole = $got_a ne '' && $index ne '' && $got_b ne '';
	$seen{ $whole ? 'right' : 'error' }++;
	push @wrong, "$where: a: $got_a, by index: $index, b: $got_b, @codes"
	  unless $good && !grep { !/^(?:XX001|58030|55000)$/ } @codes;
	# it reads as scans do, and finds what they do, or fails as they do; filters are for reads by key
	my $found = $verify ne '' || $err =~ /orbit_verify|could not (?:open|bring)/;
	$seen{verify}++ if $verify ne '';
	push @missed, "$where: $err" if ($got_a eq '' || $got_b eq '') && !$found;
}
is(join("\n", @wrong), '', "seed $seed: $tries flipped bytes: each is an error, or the answer is right");
is(join("\n", @missed), '', 'orbit_verify() finds each that a scan meets');
cmp_ok($seen{error}, '>', $tries / 5, "$seen{error} met by a query, $seen{right} by none, $seen{verify} found by orbit_verify()");
is(sql($query{$_}), $sums{$_}, "$_ is whole again") for qw(a b);
is(sql('SELECT count(*) FROM orbit_verify() WHERE problem IS NOT NULL'), 0, 'orbit_verify()');
$node->stop;
done_testing();
