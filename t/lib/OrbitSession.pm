# psql sessions that run side by side: a statement is begun in one and its answer fetched
# later, or found to be missing.
#
#   my $s = OrbitSession->new($node, 'postgres', 20);    seconds to wait for an answer
#   $s->send($sql); $s->answer;    rows joined by "; ", errors among them; undef: none in time
#   $s->ask($sql)                  both
#   $s->pid
package OrbitSession;

use strict;
use warnings;
use IPC::Run;
use Time::HiRes qw(sleep time);

sub new
{
	my ($class, $node, $db, $patience) = @_;
	my $s = bless { in => '', out => '', n => 0, patience => $patience }, $class;
	$s->{run} = IPC::Run::start(
		[ 'psql', '-XqAt', '-v', 'VERBOSITY=terse', '-d', $node->connstr($db) ],
		'<', \$s->{in}, '>&', \$s->{out});
	$s->{pid} = $s->ask('SELECT pg_backend_pid()');
	return $s;
}

sub pid { return $_[0]{pid} }

sub send
{
	my ($s, $sql) = @_;
	$s->{n}++;
	$s->{in} .= "$sql;\n\\echo :$s->{n}:\n";
	$s->{run}->pump_nb;
	return;
}

sub answered
{
	my ($s) = @_;
	$s->{run}->pump_nb;
	return $s->{out} =~ /^:$s->{n}:\n/m;
}

sub answer
{
	my ($s) = @_;
	my $until = time + $s->{patience};
	while (!$s->answered)
	{
		return if time > $until;
		sleep 0.002;
	}
	$s->{out} =~ s/^:$s->{n}:\n.*//ms;
	my $out = $s->{out};
	$s->{out} = '';
	$out =~ s/\n$//;
	$out =~ s/\n/; /g;
	return $out;
}

sub ask
{
	my ($s, $sql) = @_;
	$s->send($sql);
	return $s->answer;
}

# The end of a session that may hang.
sub quit
{
	my ($s) = @_;
	$s->{in} .= "\\q\n";
	my $until = time + 2;
	while (time < $until && $s->{run}->pumpable)
	{
		$s->{run}->pump_nb;
		sleep 0.01;
	}
	$s->{run}->kill_kill;
	return;
}

1;
