# Random statements against a heap table and against an orbit table: every result
# must be the same.  See t/lib/OrbitTwin.pm.
#
#   ORBIT_SEED=7 make test SUITES=tap ORBIT_TAP=t/040_twin.pl    one seed
#   ORBIT_TWIN_SEEDS=50 ORBIT_TWIN_STATEMENTS=5000               more of it
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use IPC::Run;
use Test::More;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use OrbitNode qw(orbit_node);
use OrbitTwin qw(script duel compare);

my $seeds = $ENV{ORBIT_TWIN_SEEDS} // 2;
my $statements = $ENV{ORBIT_TWIN_STATEMENTS} // 1500;
# A fresh one every time beside those that never change; a failure names its seed.
my @seeds = defined $ENV{ORBIT_SEED} ? ($ENV{ORBIT_SEED}) : (1 .. $seeds, time % 1000000 + 1000);

# A server each.  In one server the twins' transactions would hold back each other's horizon,
# and let it go backwards: then a rewrite or an index build may meet a dead row whose TOAST
# values VACUUM has removed, on heap too.
my %node = (orbit => orbit_node('orbit', 'fsync = off'), heap => PostgreSQL::Test::Cluster->new('heap'));
$node{heap}->init;
$node{heap}->append_conf('postgresql.conf', "fsync = off\nshared_buffers = '16MB'\nmax_prepared_transactions = 20\n");
$node{heap}->start;
$_->safe_psql('template1', 'CREATE EXTENSION dblink') for values %node;

# Runs a script in a fresh database of each access method, both at once.
sub run_twins
{
	my ($script) = @_;
	my (%out, @runs);
	my $file = "$PostgreSQL::Test::Utils::tmp_check/twin.sql";
	PostgreSQL::Test::Utils::append_to_file($file, '') unless -e $file;
	open(my $fh, '>', $file) or die "$file: $!";
	print $fh $script;
	close $fh;
	for my $am ('heap', 'orbit')
	{
		$node{$am}->safe_psql('postgres', 'CREATE DATABASE twin');
		$node{$am}->safe_psql('postgres', "ALTER DATABASE twin SET default_table_access_method = $am");
		$node{$am}->safe_psql('postgres', "ALTER DATABASE twin SET statement_timeout = '60s'");
		$out{$am} = '';
		my $conn = $node{$am}->connstr('twin');
		push @runs, IPC::Run::start(
			[ 'psql', '-X', '-q', '-A', '-t', '-v', 'VERBOSITY=terse', '-v', 'ON_ERROR_ROLLBACK=on',
				'-v', "conn=$conn", '-d', $conn ],
			'<', $file, '>&', \$out{$am}, IPC::Run::timeout(600));
	}
	$_->finish for @runs;
	$_->safe_psql('postgres', 'DROP DATABASE twin WITH (FORCE)') for values %node;
	return ($out{heap}, $out{orbit});
}

sub twin_ok
{
	my ($name, $seed, $script) = @_;
	my ($heap, $orbit) = run_twins($script);
	my $difference = compare($heap, $orbit, $script);
	my @errors = $heap =~ /^ERROR/mg;
	my @n = $script =~ /^\\echo/mg;
	ok(!defined $difference, sprintf('%s, seed %d: %d statements, %d errors, all the same',
		$name, $seed, scalar @n, scalar @errors));
	return unless defined $difference;
	diag("repeat it with ORBIT_SEED=$seed\n$difference");
	for my $part ([ 'sql', $script ], [ 'heap.log', $heap ], [ 'orbit.log', $orbit ])
	{
		my $file = "$PostgreSQL::Test::Utils::log_path/twin_${name}_$seed.$part->[0]";
		open(my $fh, '>', $file) or next;
		print $fh $part->[1];
		close $fh;
	}
}

# Files are compacted at random, all the time, or when it is worth it.
sub compactions
{
	my ($threshold, $delay) = @_;
	$node{orbit}->append_conf('postgresql.conf',
		"orbit.reclaim_threshold = $threshold\norbit.reclaim_delay = $delay\n");
	$node{orbit}->reload;
	return;
}

for my $seed (@seeds)
{
	compactions($seed % 2 ? (0, 0) : (5, q{'500ms'}));
	twin_ok('session', $seed, script($seed, $statements));
	twin_ok('duel', $seed, duel($seed, int($statements / 3)));
}

$_->stop for values %node;
done_testing();
