# Rows that change all the time beside an old snapshot, which needs the versions of before: their page grows
# beyond what shared memory takes whole, so it has the upper end of each chain.  Every snapshot sees its own
# versions all the same, in every way there is to read them, and who needs the newest ones does not go to RocksDB.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node stop_at clear_stop wait_stopped in_background wait_done eventually);
use OrbitSession;
use PostgreSQL::Test::Utils;
use Test::More;

my $rows = 30;
my $node = orbit_node('main', 'autovacuum = off', q{orbit.flush_interval = '1h'}, 'orbit.reclaim_threshold = 100');

sub sql { return $node->safe_psql('postgres', $_[0]) }

sub session
{
	my (@begin) = @_;
	my $s = OrbitSession->new($node, 'postgres', 60);
	$s->ask($_) for @begin;
	return $s;
}

# Every row (that meets a condition) so many times, each time in a transaction of its own.
sub change
{
	my ($times, $where) = @_;
	$where = $where ? "WHERE $where" : '';
	return sql("DO \$\$ BEGIN FOR i IN 1 .. $times LOOP UPDATE w SET n = n + 1 $where; COMMIT; END LOOP; END \$\$");
}

my %ways = (
	'a sequential scan' => 'SET enable_seqscan = on; SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_tidscan = off',
	'an index scan' => 'SET enable_seqscan = off; SET enable_indexscan = on; SET enable_bitmapscan = off; SET enable_tidscan = off',
	'a bitmap scan' => 'SET enable_seqscan = off; SET enable_indexscan = off; SET enable_bitmapscan = on; SET enable_tidscan = off',
	'a backward scan' => 'SET enable_seqscan = on; SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_tidscan = off');

# sum(n) and the number of the rows, read in all ways, which should agree.
sub seen
{
	my ($s) = @_;
	my %seen;
	for my $way (sort keys %ways)
	{
		$s->ask($ways{$way});
		if ($way ne 'a backward scan')
		{
			$seen{ $s->ask('SELECT sum(n) || $$ of $$ || count(*) FROM w WHERE id > 0') } .= "$way; ";
			next;
		}
		$s->ask($_) for 'DECLARE c SCROLL CURSOR FOR SELECT n FROM w', 'MOVE ALL c';
		my @n = split /; /, $s->ask('FETCH BACKWARD ALL FROM c') // '';
		$s->ask('CLOSE c');
		my $sum = 0;
		$sum += $_ for @n;
		$seen{ $sum . ' of ' . @n } .= "$way; ";
	}
	return join(', ', map { keys %seen == 1 ? $_ : "$_ by $seen{$_}" } sort keys %seen);
}

# How often a new session goes to RocksDB for the table when it reads it in these ways.
sub reads
{
	my (@settings) = @_;
	my $count = q{SELECT heap_blks_read FROM pg_statio_all_tables WHERE relname = 'w'};
	my $before = sql($count);
	sql("$_; SELECT sum(n) FROM w WHERE id > 0; SELECT pg_stat_force_next_flush()") for @settings;
	return sql($count) - $before;
}

sql(qq{CREATE TABLE w (id int PRIMARY KEY, n int, pad text); ALTER TABLE w ALTER pad SET STORAGE PLAIN;
	INSERT INTO w SELECT g, 0, repeat('x', 200) FROM generate_series(1, $rows) g; SELECT orbit_flush(); VACUUM ANALYZE w});

# ---- an old snapshot, and an old transaction that writes: no later snapshot's xmin is above its id
my $old = session('BEGIN ISOLATION LEVEL REPEATABLE READ');
is(seen($old), "0 of $rows", 'a snapshot');
change(40);
sql('SELECT orbit_flush()');
my $now = session('BEGIN');
my $sum = 40 * $rows;
is(seen($now), "$sum of $rows", 'a later one when much has changed');
is(reads(@ways{ grep { !/backward/ } keys %ways }), 0, 'whoever comes then does not go to RocksDB');
is(seen($old), "0 of $rows", 'the old one sees what it did before');

my $writes = session('BEGIN', 'SELECT pg_current_xact_id()');
change(40);
sql('SELECT orbit_flush()');
$sum += 40 * $rows;
my $middle = session('BEGIN ISOLATION LEVEL REPEATABLE READ');
is(seen($middle), "$sum of $rows", 'a snapshot beside a transaction that writes');
is(reads(@ways{ grep { !/backward/ } keys %ways }), 0, 'nobody goes to RocksDB');
is(seen($now), "$sum of $rows", 'a transaction that takes a new snapshot for each statement');

# ---- what has not been committed is nobody else's, although it has been flushed and read by who wrote it
my $own = session('BEGIN');
$own->ask('UPDATE w SET n = n + 1') for 1 .. 10;
$own->ask($_) for 'SAVEPOINT s', 'UPDATE w SET n = n + 1000', 'ROLLBACK TO s', 'UPDATE w SET n = n + 1 WHERE id <= 10';
sql('SELECT orbit_flush()');
is(seen($own), ($sum + 10 * $rows + 10) . " of $rows", 'a transaction sees what it has done');
is(seen($now), "$sum of $rows", 'nobody else does');
is(seen($middle), "$sum of $rows", '... with a snapshot of before');
is(seen($old), "0 of $rows", '... however old');
$own->ask('COMMIT');
my $before_last = $sum;
$sum += 10 * $rows + 10;
is(seen($now), "$sum of $rows", 'until it commits');
is(seen($middle), "$before_last of $rows", 'a snapshot of before does not');

# ---- rows that are gone
sql('DELETE FROM w WHERE id > 20; SELECT orbit_flush()');
my $gone = sql('SELECT sum(n) FROM w');
is(seen($now), "$gone of 20", 'deleted rows are not seen');
is(seen($middle), "$before_last of $rows", 'but by a snapshot of before');
is(seen($old), "0 of $rows", '... and by a very old one');

# ---- who looks at versions, not at rows
is($old->ask('SELECT count(*), count(DISTINCT xmin::text), bool_and(pg_xact_status(xmin::text::xid8) = $$committed$$) FROM w'),
	"$rows|1|t", 'system columns of versions far below');
is($middle->ask('SELECT count(*), count(DISTINCT xmin::text) FROM w'), "$rows|1", '... and not so far');
like($old->ask('UPDATE w SET n = 0 WHERE id = 1'), qr/could not serialize access due to concurrent update/, 'an old snapshot cannot change a row');
is(sql('INSERT INTO w VALUES (1, 0) ON CONFLICT (id) DO UPDATE SET n = w.n + 1 RETURNING n'),
	$before_last / $rows + 12, 'a row that is in the way is changed');
is(sql('INSERT INTO w VALUES (25, 5), (1, 5) ON CONFLICT DO NOTHING RETURNING id'), '25', 'a deleted one is not in the way');
is(sql('SELECT count(*) FROM (SELECT 1 FROM w FOR UPDATE) s'), 21, 'rows are locked');
$old->ask('ROLLBACK');
$old->ask($_) for 'BEGIN ISOLATION LEVEL REPEATABLE READ', 'SELECT 1 FROM w LIMIT 1';
change(40);
sql('SELECT orbit_flush(); SELECT sum(n) FROM w; CREATE INDEX w_pad ON w (coalesce(pad, $$$$)); ANALYZE w');
sub problems { return sql('SELECT count(problem) || $$ of $$ || count(*) FROM orbit_verify($$w$$)') }
is(problems(), '0 of 1', 'nothing is wrong');
is(sql('SET enable_seqscan = off; SELECT count(*) FROM w WHERE coalesce(pad, $$$$) >= $$$$'), 21, 'an index made then');

# ---- changes that contradict each other
my @pair = map { session('BEGIN ISOLATION LEVEL SERIALIZABLE') } 1 .. 2;
my @sums = map { $_->ask('SELECT sum(n) FROM w') } @pair;
is($sums[0], $sums[1], 'two transactions read the same');
$pair[$_]->ask("UPDATE w SET n = $sums[$_] WHERE id = $_ + 2") for 0 .. 1;
my @ends = map { $_->ask('COMMIT') } @pair;
is(scalar(grep { /could not serialize/ } @ends), 1, 'only one of them commits') or diag(explain(\@ends));

# ---- a page that has been cut by who has RocksDB as a flush has just made it, and a reader who has it as it was
my $tid = sql('SELECT ctid FROM w WHERE id = 10');
my $locks = session('BEGIN', 'SELECT 1 FROM w WHERE id = 10 FOR KEY SHARE');
change(40, 'id <> 10');    # too much for the flush to bring the page in shared memory up to date: it goes
sql('SELECT orbit_flush()');
my $deletes = session(q{SET enable_seqscan = off});
is($deletes->ask("SELECT id FROM w WHERE ctid = '$tid'"), 10, 'a row that is locked, read as its page is');
my $sees = session('SET enable_seqscan = off', 'BEGIN ISOLATION LEVEL REPEATABLE READ');
is($sees->ask("SELECT id FROM w WHERE ctid = '$tid'"), 10, '... also by a snapshot');
my $over;
($tid, $over) = split /\|/, sql("SET enable_seqscan = off; UPDATE w SET n = n WHERE ctid = '$tid' RETURNING ctid, pg_current_xact_id()");
$tid = sql("SET enable_seqscan = off; UPDATE w SET n = n WHERE ctid = '$tid' RETURNING ctid");
stop_at($node, 'flush-after-ingest');
my $flush = in_background($node, 'SELECT orbit_flush()');
wait_stopped($node, 'flush-after-ingest');
is(sql('SET enable_seqscan = on; SELECT count(*) FROM w'), 21, 'a new session reads what is about to be flushed');
is($sees->ask('SELECT xmax FROM w WHERE id = 10'), $over, 'who replaced the version that the snapshot sees');
$deletes->send("DELETE FROM w WHERE ctid = '$tid'");
my $waits = 'SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = $$Lock$$ AND pid = ' . $deletes->pid;
ok(eventually(sub { sql($waits) == 1 }), 'the lock of before is found below what has been cut');
clear_stop($node, 'flush-after-ingest');
wait_done($node, 'SELECT orbit_flush');
$flush->quit;
$locks->ask('COMMIT');
is($deletes->answer, '', 'when it is let go the row is deleted');
is(sql('SELECT count(*) FROM w'), 20, '... and gone');
$_->quit for $locks, $deletes, $sees;

# ---- what is undone after it has been flushed and read by who did it
$writes->ask('COMMIT');
$sum = sql('SELECT sum(n) FROM w');
change(40);
$own->ask($_) for 'BEGIN', 'UPDATE w SET n = n + 1';
sql('SELECT orbit_flush()');
$sum += 40 * 20;
is(seen($own), ($sum + 20) . ' of 20', 'a transaction sees what it has done');
$own->ask('ROLLBACK');
sql('CREATE TABLE later (i int)');
is(seen($now), "$sum of 20", 'nobody sees what it has undone');

# ---- when nobody needs them any more
$sum = sql('SELECT sum(n) FROM w');
$_->ask('COMMIT') for $old, $middle, $now;
sql($_) for 'VACUUM w', 'REINDEX TABLE w', 'SELECT orbit_flush()';
$old->ask('BEGIN');
is(seen($old), "$sum of 20", 'the same afterwards');
$old->ask('COMMIT');
is(problems(), '0 of 1', '... and nothing is wrong');
$_->quit for $old, $middle, $now, $writes, $own, @pair;
$node->restart;
is(sql('SELECT sum(n) FROM w'), $sum, '... and after a restart');
is(problems(), '0 of 1', '... without a fault');
done_testing();
