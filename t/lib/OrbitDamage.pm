# Flipped bits in files.
#
#   flip($file, $at, $mask)                  of the byte at this place; done twice nothing has happened
#   ($where, $mask) = flip_a_bit($file, $at) one bit of it; $where names the damage
package OrbitDamage;

use strict;
use warnings;
use Exporter qw(import);

our @EXPORT_OK = qw(flip flip_a_bit);

sub flip
{
	my ($file, $at, $mask) = @_;
	open my $f, '+<:raw', $file or die "$file: $!";
	seek $f, $at, 0;
	read $f, my $byte, 1;
	seek $f, $at, 0;
	print $f chr(ord($byte) ^ $mask);
	close $f or die "$file: $!";
	return;
}

sub flip_a_bit
{
	my ($file, $at) = @_;
	my $mask = 1 << int rand 8;
	my ($name) = $file =~ m{([^/]+)$};
	flip($file, $at, $mask);
	return (sprintf('%s, byte %d of %d, mask %02x', $name, $at, -s $file, $mask), $mask);
}

1;
