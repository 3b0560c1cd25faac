# A load whose every outcome is known: clients run transactions that follow from
# (client, number) alone, and note each commit that the server acknowledged.
#
# Each client owns its rows in kill_rows, a table kill_side_CLIENT that it also creates
# anew, empties, rewrites and moves, and one row in kill_counter, which its transaction N
# sets to N.  After a crash the counter must be at the last acknowledged transaction or
# the one after it, and the client's rows must be exactly those of that transaction.
# Rows of rolled-back work are marked with negative numbers and must never be seen.
# kill_accounts is shared: its sum is always zero.  kill_unlogged is empty after a crash.
#
# Tables are locked in one order, so that what rewrites them (the chores) meets no
# deadlock: kill_rows, kill_side, kill_unlogged, kill_counter, kill_accounts.
#
# Beside the load there is one prepared transaction that may last over many crashes
# (held_prepare and so on): the tables kill_held and kill_held_side.
package OrbitLoad;

use strict;
use warnings;
use Exporter qw(import);

our @EXPORT_OK = qw(load_schema load_script load_chores load_rows load_side held_prepare held_rows);

my $kept = 12;       # transactions whose rows a client keeps
my $accounts = 10;

sub load_schema
{
	my ($clients) = @_;
	return <<"SQL" . join('', map { side_schema($_) } 1 .. $clients);
CREATE TABLE kill_rows (client INT, seq INT, j INT, ver INT NOT NULL, pad TEXT, PRIMARY KEY (client, seq, j));
CREATE INDEX kill_rows_ver ON kill_rows (ver);
CREATE TABLE kill_counter (client INT PRIMARY KEY, n INT NOT NULL);
CREATE TABLE kill_accounts (id INT PRIMARY KEY, balance BIGINT NOT NULL, note TEXT);
CREATE UNLOGGED TABLE kill_unlogged (client INT, n INT, PRIMARY KEY (client, n));
CREATE TABLE kill_held (id INT PRIMARY KEY, v INT NOT NULL);
CREATE TABLE kill_held_side (v INT);
INSERT INTO kill_counter SELECT i, 0 FROM generate_series(1, $clients) i;
INSERT INTO kill_accounts SELECT i, 0, 'x' FROM generate_series(1, $accounts) i;
INSERT INTO kill_held VALUES (1, 0);
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE kill_space LOCATION '';
SQL
}

sub side_schema
{
	my ($client) = @_;
	return "CREATE TABLE kill_side_$client (n INT, v TEXT); CREATE INDEX kill_side_${client}_n ON kill_side_$client (n);\n";
}

# ---- what a transaction does ----------------------------------------------------------

# Each draws from numbers of its own, so that everything happens together with everything.
sub dice
{
	my ($client, $n) = @_;
	my $h = ($client * 7919 + $n * 104729 + 13) & 0x7fffffff;
	$h = ($h * 1103515245 + 12345) & 0x7fffffff for 1 .. 3;
	return sub {
		$h = ($h * 1103515245 + 12345) & 0x7fffffff;
		return ($h >> 8) % $_[0];
	};
}

my @side = (qw(create truncate rewrite cluster reindex move back update), ('insert') x 4, ('') x 10);

# What transaction n of a client does, as small numbers.
sub plan
{
	my ($client, $n) = @_;
	my $d = dice($client, $n);
	my $rows = !$d->(120) ? 800 : !$d->(23) ? 60 : 1 + $d->(4);
	return {
		rows => $rows,
		pad => $rows <= 60 && !$d->(17) ? 3000 + $d->(6000) : $d->(60),
		copied => !$d->(4),
		released => !$d->(3),
		undone => !$d->(3),
		inner => !$d->(2),
		side => $side[ $d->(scalar @side) ],
		side_rows => !$d->(40) ? 900 : 1 + $d->(7),
		prepared => !$d->(11),
		upsert => !$d->(3),
		locks => !$d->(3),
		amount => 1 + $d->(100),
		from => 1 + $d->($accounts),
		to => 1 + $d->($accounts)
	};
}

sub pad
{
	my ($n, $length) = @_;
	return $length < 3000 ? "repeat('p', $length)"
	  : "left((SELECT string_agg(md5((g + $n)::text), '' ORDER BY g) FROM generate_series(1, 300) g), $length)";
}

sub insert_rows
{
	my ($client, $n, $p, $from, $to) = @_;
	my $pad = pad($n, $p->{pad});
	return "INSERT INTO kill_rows SELECT $client, $n, g, 0, $pad FROM generate_series($from, $to) g;\n"
	  unless $p->{copied} and $p->{pad} < 3000;
	return "COPY kill_rows FROM STDIN;\n"
	  . join('', map { join("\t", $client, $n, $_, 0, 'p' x $p->{pad}) . "\n" } $from .. $to) . "\\.\n";
}

# Some of the rows in subtransactions that are kept, around one that is not.
sub new_rows
{
	my ($client, $n, $p) = @_;
	my $first = $p->{released} ? int($p->{rows} / 2) : $p->{rows};
	my $sql = $first ? insert_rows($client, $n, $p, 1, $first) : '';
	return $sql unless $p->{released};
	return $sql . "SAVEPOINT r;\n" . insert_rows($client, $n, $p, $first + 1, $p->{rows})
	  . "SAVEPOINT s; UPDATE kill_rows SET ver = -50 WHERE client = $client AND seq = $n; ROLLBACK TO s;\n"
	  . "SAVEPOINT t; UPDATE kill_rows SET ver = ver WHERE client = $client AND seq = $n; RELEASE r;\n";
}

sub change_side
{
	my ($client, $n, $p) = @_;
	my $table = "kill_side_$client";
	my %sql = (
		create => "DROP TABLE $table; " . side_schema($client),
		truncate => "TRUNCATE $table;\n",
		rewrite => "ALTER TABLE $table ALTER n TYPE INT USING n + 1000000;\n",
		cluster => "CLUSTER $table USING ${table}_n;\n",
		reindex => "REINDEX TABLE $table;\n",
		move => "ALTER TABLE $table SET TABLESPACE kill_space;\n",
		back => "ALTER TABLE $table SET TABLESPACE pg_default;\n",
		update => "UPDATE $table SET v = v || 'u';\n",
		insert => '');
	return '' if $p->{side} eq '';
	return $sql{ $p->{side} } . "INSERT INTO $table SELECT $n, 'v' FROM generate_series(1, $p->{side_rows});\n";
}

# To be undone, by a savepoint or with the transaction.
sub never
{
	my ($client, $n, $p, $j) = @_;
	my $table = "kill_side_$client";
	my @ddl = (
		"TRUNCATE $table; INSERT INTO $table VALUES (-$n, 'never');",
		"DROP TABLE $table; CREATE TABLE $table (n INT, v TEXT); INSERT INTO $table VALUES (-$n, 'never');",
		"ALTER TABLE $table ALTER n TYPE INT USING -1; INSERT INTO $table VALUES (-$n, 'never');",
		"INSERT INTO $table SELECT -$n, 'never' FROM generate_series(1, 20);");
	return "INSERT INTO kill_rows VALUES ($client, -$n, $j, -1, 'never'); "
	  . "UPDATE kill_rows SET ver = -ver - 1, pad = 'never' WHERE client = $client; "
	  . "DELETE FROM kill_rows WHERE client = $client AND seq = $n - 2; "
	  . ($p->{amount} % 3 ? '' : $ddl[ $p->{from} % @ddl ]);
}

sub transaction
{
	my ($client, $n) = @_;
	my $p = plan($client, $n);
	my $sql = '';
	$sql .= 'BEGIN; ' . never($client, $n, $p, 0) . " ROLLBACK;\n" if $p->{undone};
	$sql .= "BEGIN;\n" . new_rows($client, $n, $p);
	$sql .= "UPDATE kill_rows SET ver = ver + 1 WHERE client = $client AND seq IN ($n - 1, $n - 3);\n";
	$sql .= 'SAVEPOINT a; ' . never($client, $n, $p, 1) . " ROLLBACK TO a;\n" if $p->{inner};
	$sql .= "UPDATE kill_rows SET j = j + 10000 WHERE client = $client AND seq = $n - 5;\n";
	$sql .= "DELETE FROM kill_rows WHERE client = $client AND seq <= $n - $kept;\n";
	$sql .= change_side($client, $n, $p);
	$sql .= "INSERT INTO kill_unlogged VALUES ($client, $n); DELETE FROM kill_unlogged WHERE client = $client AND n = $n - 9;\n";
	$sql .= "INSERT INTO kill_temp SELECT -$n, 'never' FROM generate_series(1, 9);\n" unless $p->{prepared};
	$sql .= $p->{upsert}
	  ? "INSERT INTO kill_counter VALUES ($client, $n) ON CONFLICT (client) DO UPDATE SET n = excluded.n;\n"
	  : "UPDATE kill_counter SET n = $n WHERE client = $client;\n";
	# In the order of the ids, or clients would wait for each other in a ring.
	my @moves = sort { $a->[0] <=> $b->[0] } ([ $p->{from}, -$p->{amount} ], [ $p->{to}, $p->{amount} ]);
	$sql .= "SELECT FROM kill_accounts WHERE id IN ($p->{from}, $p->{to}) ORDER BY id FOR UPDATE;\n" if $p->{locks};
	$sql .= "UPDATE kill_accounts SET balance = balance + $_->[1] WHERE id = $_->[0];\n" for @moves;
	$sql .= $p->{prepared} ? "PREPARE TRANSACTION 'kill $client $n'; COMMIT PREPARED 'kill $client $n';\n" : "COMMIT;\n";
	return $sql . "\\echo done $n\n";
}

# Transactions from .. to of a client, for psql with ON_ERROR_STOP.
sub load_script
{
	my ($client, $from, $to) = @_;
	return "CREATE TEMP TABLE kill_temp (n INT, v TEXT);\n" . join('', map { transaction($client, $_) } $from .. $to);
}

# What goes on beside the clients, at random moments.
sub load_chores
{
	my ($n) = @_;
	my @chores = (
		('CHECKPOINT') x 4, ('SELECT orbit_flush()') x 2, ('VACUUM kill_rows') x 3, 'VACUUM (FREEZE) kill_accounts', 'ANALYZE kill_rows',
		'VACUUM FULL kill_counter', 'CLUSTER kill_rows USING kill_rows_pkey', 'REINDEX TABLE kill_rows');
	return join('', map { sprintf("SELECT pg_sleep(%.3f);\n%s;\n", 0.05 + rand 0.2, $chores[ rand @chores ]) } 1 .. $n);
}

# ---- what must be there ------------------------------------------------------------------

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
		my $shift = $age >= 5 ? 10000 : 0;
		push @rows, map { join(',', $seq, $_ + $shift, $ver, $p->{pad}) } 1 .. $p->{rows};
	}
	return join("\n", @rows);
}

# The side table after transaction n, as "n,rows,length of v" lines, ascending.
sub load_side
{
	my ($client, $n) = @_;
	my $first = $n;
	$first-- while $first > 0 and plan($client, $first)->{side} !~ /^(create|truncate)$/;
	my @rows;
	for my $i ($first .. $n)
	{
		next if $i < 1;
		my $p = plan($client, $i);
		next if $p->{side} eq '';
		if ($p->{side} eq 'rewrite') { $_->[0] += 1000000 for @rows }
		if ($p->{side} eq 'update') { $_->[2]++ for @rows }
		push @rows, [ $i, $p->{side_rows}, 1 ];
	}
	return join("\n", map { join(',', @$_) } sort { $a->[0] <=> $b->[0] } @rows);
}

# ---- the transaction that lasts -------------------------------------------------------------

# Prepares number n; the last one committed is `before`.
sub held_prepare
{
	my ($n, $before) = @_;
	return "BEGIN; UPDATE kill_held SET v = $n WHERE id = 1; INSERT INTO kill_held VALUES (100 + $n, $n); "
	  . "SAVEPOINT a; DELETE FROM kill_held WHERE id = 100 + $before; RELEASE a; "
	  . "SAVEPOINT b; UPDATE kill_held SET v = -1; ROLLBACK TO b; "
	  . "TRUNCATE kill_held_side; INSERT INTO kill_held_side SELECT $n FROM generate_series(1, 50); PREPARE TRANSACTION 'held'";
}

# kill_held, as "id,v" lines, when n was the last one committed.
sub held_rows
{
	my ($n) = @_;
	return $n == 0 ? '1,0' : "1,$n\n" . (100 + $n) . ",$n";
}

1;
