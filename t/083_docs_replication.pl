# The commands of docs/replication.md, as they stand there and in that order.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use OrbitNode qw(orbit_node postmaster_pid);

my $node = orbit_node('main', { allows_streaming => 1 });
my $base = PostgreSQL::Test::Utils::tempdir();
my %env = (
	PGDATA => $node->data_dir, PGHOST => $node->host, PGPORT => $node->port, PGUSER => scalar getpwuid($<), PGDATABASE => 'postgres',
	STANDBY => "$base/standby", STANDBY_PORT => PostgreSQL::Test::Cluster::get_free_port());
local @ENV{ keys %env } = values %env;

END
{
	local $?;
	for (grep { defined } @env{ 'PGDATA', 'STANDBY' })
	{
		system("pg_ctl -D '$_' -m immediate -w stop >/dev/null 2>&1") if postmaster_pid($_);
	}
}

$node->safe_psql('postgres', q{CREATE TABLE actors (id int PRIMARY KEY, name text); INSERT INTO actors VALUES (1, 'Alice'), (2, 'Bob'), (3, 'Charlie')});
# The commands stop and start it from here on.
$node->{_pid} = undef;

# What a server has, at the latest after a moment.
sub rows_are
{
	my ($port, $expected, $what) = @_;
	my $got = '';
	for (1 .. 100)
	{
		$got = `psql -XAtq -p $port -c "SELECT string_agg(id::text, ',' ORDER BY id) FROM actors" 2>&1`;
		chomp $got;
		last if $got eq $expected;
		sleep 0.1;
	}
	return is($got, $expected, $what);
}

my %after = (
	'A standby' => sub { rows_are($env{STANDBY_PORT}, '1,2,3', 'the standby has the rows') },
	'Failover' => sub { rows_are($_, '1,2,3,4', "after the failover, port $_") for $env{STANDBY_PORT}, $env{PGPORT} });

my $n = 0;
for my $section (split /^## /m, slurp_file("$FindBin::RealBin/../docs/replication.md"))
{
	my ($heading) = $section =~ /^(.*)$/m;
	while ($section =~ /^```sh\n(.*?)^```$/gms)
	{
		my $out = `bash -e 2>&1 <<'COMMANDS'\n$1\nCOMMANDS\n`;
		is($?, 0, "$heading: commands " . ++$n) or diag($out);
	}
	$after{$heading}->() if $after{$heading};
}
cmp_ok($n, '>=', 6, 'commands were found');
done_testing();
