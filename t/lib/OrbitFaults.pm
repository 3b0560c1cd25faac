# Faults in the files under RocksDB (src/base/faults.h), and what the log says of them.
#
#   use_faults($node)                          declares the functions, in database postgres
#   set_fault($node, who, calls, pattern, action, skip, times)    gives its number
#   clear_faults($node, [number])
#   fault_hits($node, number)                  calls that fitted so far
#   fault_at_start(...)                        the value of ORBIT_FAULTS for one such fault
package OrbitFaults;

use strict;
use warnings;
use Exporter qw(import);

our @EXPORT_OK = qw(use_faults set_fault clear_faults fault_hits fault_at_start);

sub use_faults
{
	my ($node) = @_;
	$node->safe_psql(
		'postgres', q{
CREATE FUNCTION orbit_fault_set(who text, calls text, pattern text, action text, skip int, times int) RETURNS int
	AS 'orbit_fdw' LANGUAGE C STRICT;
CREATE FUNCTION orbit_fault_hits(number int) RETURNS int AS 'orbit_fdw' LANGUAGE C STRICT;
CREATE FUNCTION orbit_fault_clear(number int) RETURNS void AS 'orbit_fdw' LANGUAGE C STRICT;});
	return;
}

sub set_fault
{
	my ($node, $who, $calls, $pattern, $action, $skip, $times) = @_;
	return $node->safe_psql('postgres',
		sprintf(q{SELECT orbit_fault_set('%s', '%s', '%s', '%s', %d, %d)}, $who, $calls, $pattern, $action, $skip // 0, $times // 0));
}

sub clear_faults
{
	my ($node, $number) = @_;
	$node->safe_psql('postgres', sprintf('SELECT orbit_fault_clear(%d)', $number // -1));
	return;
}

sub fault_hits
{
	my ($node, $number) = @_;
	return $node->safe_psql('postgres', "SELECT orbit_fault_hits($number)");
}

sub fault_at_start
{
	my ($who, $calls, $pattern, $action, $skip, $times) = @_;
	return join(' ', $who, $calls, $pattern, $action, $skip // 0, $times // 0);
}

1;
