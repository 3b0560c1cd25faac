# Faults in the files under RocksDB (src/base/faults.h), and what the log says of them.
#
#   use_faults($node)                          declares the functions, in database postgres
#   set_fault($node, who, calls, pattern, action, skip, times)    gives its number
#   clear_faults($node, [number])
#   fault_hits($node, number)                  calls that fitted so far
#   fault_at_start(...)                        the value of ORBIT_FAULTS for one such fault
#
# Instead of the node an OrbitSession may be given, where there are many faults one after the other.
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

sub query
{
	my ($on, $sql) = @_;
	return $on->isa('OrbitSession') ? $on->ask($sql) : $on->safe_psql('postgres', $sql);
}

sub set_fault
{
	my ($on, $who, $calls, $pattern, $action, $skip, $times) = @_;
	return query($on,
		sprintf(q{SELECT orbit_fault_set('%s', '%s', '%s', '%s', %d, %d)}, $who, $calls, $pattern, $action, $skip // 0, $times // 0));
}

sub clear_faults
{
	my ($on, $number) = @_;
	query($on, sprintf('SELECT orbit_fault_clear(%d)', $number // -1));
	return;
}

sub fault_hits
{
	my ($on, $number) = @_;
	return query($on, "SELECT orbit_fault_hits($number)");
}

sub fault_at_start
{
	my ($who, $calls, $pattern, $action, $skip, $times) = @_;
	return join(' ', $who, $calls, $pattern, $action, $skip // 0, $times // 0);
}

1;
