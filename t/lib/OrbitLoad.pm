# A load whose every outcome is known: clients run transactions that follow from
# (client, number) alone, and note each commit that the server acknowledged.
#
# Each client owns its rows in kill_rows and one row in kill_counter, which its
# transaction N sets to N.  After a crash the counter must be at the last
# acknowledged transaction or the one after it, and the client's rows must be
# exactly those of that transaction.  Rows of rolled-back work are marked with
# negative numbers and must never be seen.  kill_accounts is shared: its sum is
# always zero.
package OrbitLoad;

use strict;
use warnings;
use Exporter qw(import);

our @EXPORT_OK = qw(load_schema load_script load_rows);

my $kept = 12;       # transactions whose rows a client keeps
my $accounts = 10;

sub load_schema
{
	my ($clients) = @_;
	return <<"SQL";
CREATE TABLE kill_rows (client INT, seq INT, j INT, ver INT NOT NULL, pad TEXT, PRIMARY KEY (client, seq, j));
CREATE INDEX kill_rows_ver ON kill_rows (ver);
CREATE TABLE kill_counter (client INT PRIMARY KEY, n INT NOT NULL);
CREATE TABLE kill_accounts (id INT PRIMARY KEY, balance BIGINT NOT NULL, note TEXT);
INSERT INTO kill_counter SELECT i, 0 FROM generate_series(1, $clients) i;
INSERT INTO kill_accounts SELECT i, 0, 'x' FROM generate_series(1, $accounts) i;
SQL
}

# What transaction n of a client does, as small numbers.
sub plan
{
	my ($client, $n) = @_;
	my $h = ($client * 7919 + $n * 104729 + 13) & 0x7fffffff;
	$h = ($h * 1103515245 + 12345) & 0x7fffffff for 1 .. 3;
	$h >>= 8;
	my $wide = $h % 17 == 0;
	return {
		rows => $h % 23 == 0 ? 60 : 1 + $h % 4,
		pad => $wide ? 3000 + $h % 6000 : $h % 60,
		undone => $h % 3 == 0,
		inner => $h % 2 == 0,
		prepared => $h % 11 == 0,
		amount => 1 + $h % 100,
		from => 1 + $h % $accounts,
		to => 1 + ($h >> 4) % $accounts
	};
}

sub pad
{
	my ($n, $length) = @_;
	return $length < 3000 ? "repeat('p', $length)"
	  : "left((SELECT string_agg(md5((g + $n)::text), '' ORDER BY g) FROM generate_series(1, 300) g), $length)";
}

sub transaction
{
	my ($client, $n) = @_;
	my $p = plan($client, $n);
	my $sql = '';
	my $pad = pad($n, $p->{pad});
	if ($p->{undone})
	{
		$sql .= "BEGIN; INSERT INTO kill_rows VALUES ($client, -$n, 0, -1, $pad); "
		  . "UPDATE kill_rows SET ver = -ver - 1, pad = 'never' WHERE client = $client; DELETE FROM kill_rows WHERE client = $client AND seq = $n - 2; ROLLBACK;\n";
	}
	$sql .= "BEGIN;\nINSERT INTO kill_rows SELECT $client, $n, g, 0, $pad FROM generate_series(1, $p->{rows}) g;\n";
	$sql .= "UPDATE kill_rows SET ver = ver + 1 WHERE client = $client AND seq IN ($n - 1, $n - 3);\n";
	if ($p->{inner})
	{
		$sql .= "SAVEPOINT a; INSERT INTO kill_rows VALUES ($client, -$n, 1, -1, 'never'); "
		  . "UPDATE kill_rows SET ver = -100 WHERE client = $client; ROLLBACK TO a;\n";
	}
	$sql .= "UPDATE kill_rows SET j = j + 1000 WHERE client = $client AND seq = $n - 5;\n";
	$sql .= "DELETE FROM kill_rows WHERE client = $client AND seq <= $n - $kept;\n";
	$sql .= "UPDATE kill_counter SET n = $n WHERE client = $client;\n";
	# In the order of the ids, or clients would wait for each other in a ring.
	my @moves = sort { $a->[0] <=> $b->[0] } ([ $p->{from}, -$p->{amount} ], [ $p->{to}, $p->{amount} ]);
	$sql .= "UPDATE kill_accounts SET balance = balance + $_->[1] WHERE id = $_->[0];\n" for @moves;
	$sql .= $p->{prepared} ? "PREPARE TRANSACTION 'kill $client $n'; COMMIT PREPARED 'kill $client $n';\n" : "COMMIT;\n";
	return $sql . "\\echo done $n\n";
}

# Transactions from .. to of a client, for psql with ON_ERROR_STOP.
sub load_script
{
	my ($client, $from, $to) = @_;
	return join('', map { transaction($client, $_) } $from .. $to);
}

# The client's rows after transaction n, as "seq,j,ver,length" lines, ascending.
sub load_rows
{
	my ($client, $n) = @_;
	my @rows;
	for my $seq ($n - $kept + 1 .. $n)
	{
		next if $seq < 1;
		my $p = plan($client, $seq);
		my $age = $n - $seq;
		my $ver = ($age >= 1 ? 1 : 0) + ($age >= 3 ? 1 : 0);
		my $shift = $age >= 5 ? 1000 : 0;
		push @rows, map { join(',', $seq, $_ + $shift, $ver, $p->{pad}) } 1 .. $p->{rows};
	}
	return join("\n", @rows);
}

1;
