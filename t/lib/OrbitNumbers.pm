# Table t of tests that count: rows 1 .. n, so that count, ends and sum tell
# whether any is missing or there twice.
package OrbitNumbers;

use strict;
use warnings;
use Exporter qw(import);

our @EXPORT_OK = qw(create_numbers insert_to summary expected);

sub create_numbers
{
	my ($node) = @_;
	$node->safe_psql('postgres', 'CREATE TABLE t (i INT, filler TEXT) USING orbit');
	return;
}

sub insert_to
{
	my ($node, $from, $to) = @_;
	$node->safe_psql('postgres',
		"INSERT INTO t SELECT g, repeat('x', 50) FROM generate_series($from, $to) g");
	return;
}

sub summary
{
	my ($node) = @_;
	return $node->safe_psql('postgres',
		'SELECT count(*), coalesce(min(i), 0), coalesce(max(i), 0), coalesce(sum(i), 0) FROM t');
}

# Of rows 1 .. max.
sub expected
{
	my ($max) = @_;
	return join('|', $max, 1, $max, $max * ($max + 1) / 2);
}

1;
