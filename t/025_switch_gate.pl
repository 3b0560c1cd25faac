# PostgreSQL's locks let a shared holder in while an exclusive one waits, so writers who come and go could
# keep the one who seals a full write buffer waiting for ever.  Once he waits they queue behind him.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node);
use OrbitSession;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $node = orbit_node('main', 'autovacuum = off', q{orbit.flush_interval = '1h'}, 'fsync = off');

sub sql { return $node->safe_psql('postgres', $_[0]) }

sql(q{
CREATE TABLE w (what TEXT, s TEXT) USING orbit;
ALTER TABLE w ALTER s SET STORAGE PLAIN;
});
my $inside = q{orbit_stop_point_waiters('write_section')};

sub wait_for
{
	my ($what, $condition) = @_;
	my $until = time + 20;
	until (sql("SELECT $condition") eq 't')
	{
		BAIL_OUT($what) if time > $until;
		sleep 0.02;
	}
	return;
}

sub waits_for_lock
{
	my ($s) = @_;
	return '(SELECT wait_event_type = $$LWLock$$ FROM pg_stat_activity WHERE pid = ' . $s->pid . ')';
}

my ($holder, $sealer, @writers) = map { OrbitSession->new($node, 'postgres', 20) } 1 .. 5;
my $seq = 'SELECT active_seq FROM orbit_stat_storage()';

for my $round (1 .. 3)
{
	sql('TRUNCATE w; SELECT orbit_flush()');
	my $active = sql($seq);
	# There is room for small rows, but not for the widest.
	sql(q{DO $$ BEGIN
		WHILE (SELECT size - used > 7000 FROM orbit_stat_write_buffers() WHERE state = 'active') LOOP
			INSERT INTO w VALUES ('before', repeat('b', 500));
		END LOOP; END $$});
	my $before = sql('SELECT count(*) FROM w');
	is(sql($seq), $active, 'a write buffer that is nearly full');

	sql(q{SELECT orbit_stop_point_set('write_section', 'wait', 0)});
	$holder->send(q{INSERT INTO w VALUES ('holder', 'h')});
	wait_for('nobody stops in the write section', "$inside = 1");
	$sealer->send(q{INSERT INTO w VALUES ('sealer', repeat('s', 8000))});
	wait_for('the sealer does not wait', waits_for_lock($sealer));

	for my $i (0 .. $#writers)
	{
		$writers[$i]->send("INSERT INTO w VALUES ('writer $i', 'w')");
		wait_for('a writer neither waits nor writes', "$inside > 1 OR " . waits_for_lock($writers[$i]));
	}
	is(sql("SELECT $inside"), 1, 'no writer has overtaken the sealer');
	is(sql($seq), $active, 'who still waits');

	sql(q{SELECT orbit_stop_point_clear('write_section')});
	is($_->answer, '', 'all of them end') for $holder, $sealer, @writers;
	is(sql($seq), $active + 1, 'the buffer was sealed');
	is(sql(q{SELECT count(*), count(DISTINCT what) FROM w}), $before + 5 . '|6', 'every row is there');
}
$_->quit for $holder, $sealer, @writers;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP/, 'no process died');
$node->stop;
done_testing();
