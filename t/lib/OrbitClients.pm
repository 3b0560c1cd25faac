# The clients of OrbitLoad's load as psql processes, and what they were told.
#
#   my $load = OrbitClients->new($connstr, clients);
#   $load->start(transactions, [chores]); ... $load->end(seconds)    strange things; none is good
#   $load->{last}[client]    the last transaction that the server acknowledged
#   OrbitClients::start_psql(connstr, name, sql)    any other; output in tmp_check/name.out and .err
package OrbitClients;

use strict;
use warnings;
use POSIX qw(_exit);
use PostgreSQL::Test::Utils;
use Time::HiRes qw(sleep time);
use OrbitLoad qw(load_script load_chores);

sub new
{
	my ($class, $conn, $clients) = @_;
	return bless { conn => $conn, clients => $clients, last => [ (0) x ($clients + 1) ] }, $class;
}

sub start_psql
{
	my ($conn, $name, $sql, @options) = @_;
	my $tmp = $PostgreSQL::Test::Utils::tmp_check;
	open(my $fh, '>', "$tmp/$name.sql") or die $!;
	print $fh $sql;
	close $fh;
	my $pid = fork() // die "fork: $!";
	return $pid if $pid;
	open(STDIN, '<', "$tmp/$name.sql");
	open(STDOUT, '>', "$tmp/$name.out");
	open(STDERR, '>', "$tmp/$name.err");
	exec('psql', '-X', '-q', '-A', '-t', @options, '-d', $conn) or _exit(1);
}

sub start
{
	my ($self, $transactions, $chores) = @_;
	my @stop = ('-v', 'ON_ERROR_STOP=1');
	my $last = $self->{last};
	$self->{pids} = [ map { start_psql($self->{conn}, "client$_", load_script($_, $last->[$_] + 1, $last->[$_] + $transactions), @stop) }
		1 .. $self->{clients} ];
	push @{ $self->{pids} }, start_psql($self->{conn}, 'chores', load_chores($chores // 50), @stop);
	return;
}

# Whether some of them still run.
sub running
{
	my ($self) = @_;
	$self->{pids} = [ grep { waitpid($_, POSIX::WNOHANG()) == 0 } @{ $self->{pids} } ];
	return scalar @{ $self->{pids} };
}

# Why they ended: nothing but a lost server may end them before they are done.
sub end
{
	my ($self, $seconds) = @_;
	my $tmp = $PostgreSQL::Test::Utils::tmp_check;
	my $until = time + $seconds;
	my @strange;
	while ($self->running)
	{
		if (time > $until)
		{
			push @strange, 'a client hangs';
			kill 'KILL', @{ $self->{pids} };
			$until += 60;
		}
		sleep 0.01;
	}
	for my $client (1 .. $self->{clients})
	{
		my $out = slurp_file("$tmp/client$client.out");
		my ($done) = $out =~ /done (\d+)\n(?!.*done)/s;
		$self->{last}[$client] = $done if defined $done;
	}
	return @strange, grep { /ERROR|PANIC/ } map { split /\n/, slurp_file("$tmp/$_.err") } 'chores',
	  map { "client$_" } 1 .. $self->{clients};
}

1;
