# The commands of docs/backup.md, as they stand there and in that order.  After each section the
# rows are those that it promises.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use OrbitNode qw(orbit_node postmaster_pid);

my $am = $ENV{ORBIT_TEST_AM} // 'orbit';
my $doc = slurp_file("$FindBin::RealBin/../docs/backup.md");
my $node = orbit_node('main', { allows_streaming => 1 });
my $base = PostgreSQL::Test::Utils::tempdir();
mkdir "$base/backups";
my %env = (
	PGDATA => $node->data_dir, PGHOST => $node->host, PGPORT => $node->port, PGUSER => scalar getpwuid($<), PGDATABASE => 'postgres',
	BACKUPS => "$base/backups", STANDBY => "$base/standby", STANDBY_PORT => PostgreSQL::Test::Cluster::get_free_port());
local @ENV{ keys %env } = values %env;

END
{
	local $?;
	for (grep { defined } @env{ 'PGDATA', 'STANDBY' })
	{
		system("pg_ctl -D '$_' -m immediate -w stop >/dev/null 2>&1") if postmaster_pid($_);
	}
}

$node->safe_psql('postgres', qq{
CREATE TABLE actors (id int PRIMARY KEY, name text) USING $am;
INSERT INTO actors VALUES (1, 'Alice'), (2, 'Bob'), (3, 'Charlie');
CREATE TABLE many USING $am AS SELECT g, md5(g::text) m FROM generate_series(1, 5000) g;
});
# The sections' commands start and stop it from here on.
$node->{_pid} = undef;

# Heading => what its end has: the actors by port, in databases.
my $all = '1,2,3';
my %expected = (
	'What is in a backup' => { postgres => [$all] },
	'pg_basebackup' => { postgres => [$all] },
	'Point-in-time recovery' => { postgres => [$all] },
	'A copy of your own' => { postgres => [$all] },
	'pgBackRest' => { postgres => [$all] },
	'pg_dump' => { postgres => [$all], restored => [$all] },
	'pg_rewind' => { postgres => [ '1,2,3,4,5', '1,2,3,4,5' ] });

sub query
{
	my ($port, $db, $sql) = @_;
	my $out = `psql -XAtq -h '$env{PGHOST}' -p $port -d $db -c "$sql" 2>&1`;
	chomp $out;
	return $out;
}

sub rows_are
{
	my ($section) = @_;
	my @ports = ($env{PGPORT}, $env{STANDBY_PORT});
	for my $db (sort keys %{ $expected{$section} })
	{
		my @rows = @{ $expected{$section}{$db} };
		for my $i (0 .. $#rows)
		{
			# A standby has them a moment later.
			my ($got, $tries) = ('', 0);
			while ($got ne $rows[$i] and $tries++ < 100)
			{
				$got = query($ports[$i], $db, q{SELECT string_agg(id::text, ',' ORDER BY id) FROM actors});
				select(undef, undef, undef, 0.1) if $got ne $rows[$i];
			}
			is($got, $rows[$i], "$section: rows in $db" . ($i ? ' of the other server' : ''));
			is(query($ports[$i], $db, 'SELECT count(*), count(DISTINCT m) FROM many'), '5000|5000', "$section: many rows");
		}
	}
	return;
}

sub run_block
{
	my ($section, $n, $block) = @_;
	my $file = "$base/block.sh";
	open(my $fh, '>', $file) or die $!;
	print $fh $block;
	close $fh;
	my $out = `cd '$base' && bash -eu -o pipefail '$file' 2>&1 </dev/null`;
	my $status = $?;
	note($out);
	return ok($status == 0, "$section: block $n") || diag("$block\n$out");
}

# What heap tables do not have.
$doc =~ s/ -c 'SELECT \* FROM orbit_snapshots\(\)'// if $am eq 'heap';

my %seen;
for my $part (split /^(?=## )/m, $doc)
{
	my ($section) = $part =~ /^## (.*)$/m or next;
	my @blocks = $part =~ /^```sh\n(.*?)^```$/msg or next;
	ok($expected{$section}, "section $section is known here") or next;
	$seen{$section} = 1;
	my $n = 0;
	run_block($section, ++$n, $_) or die 'what follows depends on it' for @blocks;
	rows_are($section);
}
is(join(', ', sort keys %seen), join(', ', sort keys %expected), 'every section has run');

unlike(slurp_file("$env{$_}.log"), qr/PANIC|TRAP|was terminated by signal/, "nothing died: $_") for 'PGDATA', 'STANDBY';
done_testing();
