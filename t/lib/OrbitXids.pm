# Servers in which many transactions have gone by.
#
#   set_next_xid($node, $next, $since)
#
# The next transaction of the server, which is stopped, is $next, a full id.  Of those from $since to it ($next, if none
# is given) the commit log says that they have not committed; what is known of earlier ones stays.
package OrbitXids;

use strict;
use warnings;
use Exporter qw(import);

our @EXPORT_OK = qw(set_next_xid);

# Transactions in a file of the commit log, two bits each.
use constant SEGMENT_XIDS => 8192 * 4 * 32;

sub set_next_xid
{
	my ($node, $next, $since) = @_;
	for my $number (int(($since // $next) / SEGMENT_XIDS) .. int($next / SEGMENT_XIDS))
	{
		my $file = $node->data_dir . sprintf('/pg_xact/%04X', $number % (2**32 / SEGMENT_XIDS));
		open(my $fh, '>>', $file) or die "$file: $!";
		truncate($fh, SEGMENT_XIDS / 4) or die "$file: $!";
		close $fh;
	}
	system('pg_resetwal', '-x', $next % 2**32, '-e', int($next / 2**32), '-D', $node->data_dir) == 0 or die 'pg_resetwal';
	return;
}

1;
