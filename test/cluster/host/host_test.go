package host

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/podsnap/podsnap/test/cluster/hub"
	"github.com/podsnap/podsnap/test/leak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	Main()
	if os.Getenv("HOST_TEST_ABANDON") != "" {
		abandon()
	}
	os.Exit(m.Run())
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("namespaces need root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("no /dev/net/tun: ", err)
	}
}

// two prepares hosts a and b in a folder.
func two(dir string) (*hub.Hub, *Groups, []*Host, error) {
	var members []hub.Member
	for i := range byte(2) {
		members = append(members, hub.Member{Name: string('a' + i), MAC: net.HardwareAddr{2, 0, 10, 77, 0, i}})
	}
	h := hub.New(1, members...)
	g, err := NewGroups(filepath.Base(dir))
	if err != nil {
		return nil, nil, nil, err
	}
	var out []*Host
	for i, m := range members {
		one, err := New(Config{
			Name: m.Name, MAC: m.MAC, Addr: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 77, 0, byte(10 + i)}), 24),
			Dir: filepath.Join(dir, m.Name), Groups: g, Hub: h, Programs: map[string]string{"my-cat": "/bin/cat"},
		})
		if err != nil {
			return nil, nil, nil, err
		}
		out = append(out, one)
	}
	return h, g, out, nil
}

func rig(t *testing.T) (*hub.Hub, *Host, *Host) {
	t.Helper()
	needRoot(t)
	before, err := leak.Take()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "psh")
	if err != nil {
		t.Fatal(err)
	}
	h, g, hosts, err := two(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, one := range hosts {
			if err := one.PowerOff(); err != nil {
				t.Error(err)
			}
		}
		h.Close()
		if err := errors.Join(g.Remove(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
		after, err := leak.Take()
		if err != nil {
			t.Fatal(err)
		}
		if left := after.Since(before); len(left) > 0 {
			t.Errorf("there is still:\n%s", strings.Join(left, "\n"))
		}
	})
	for _, one := range hosts {
		if err := one.Boot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return h, hosts[0], hosts[1]
}

func run(t *testing.T, h *Host, args ...string) string {
	t.Helper()
	out, err := h.Run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// A host sees itself and nothing of others.
func TestSurroundings(t *testing.T) {
	_, a, b := rig(t)
	if got := run(t, b, "hostname"); got != "b\n" {
		t.Errorf("its name is %q", got)
	}
	if got := strings.Fields(run(t, a, "sh", "-c", "cd /proc; ls -d [0-9]*")); len(got) > 3 { // init, sh, ls
		t.Errorf("it sees the processes %v", got)
	}
	if got := run(t, a, "sh", "-c", "ls /sys/class/net; ls -A /run /tmp /var/lib"); got != "eth0\nlo\n/run:\nbin\n\n/tmp:\n\n/var/lib:\n" {
		t.Errorf("its devices and folders are\n%s", got)
	}
	for l := range strings.Lines(run(t, a, "cat", "/proc/self/cgroup")) {
		if path := l[strings.LastIndex(l, ":")+1:]; path != "/\n" && path != "/init\n" {
			t.Errorf("its control group is %s", l)
		}
	}
	if got, err := a.RunWith(t.Context(), Command{Args: []string{"my-cat"}}, "through a pipe"); err != nil || got != "through a pipe" {
		t.Errorf("a program of its own: %q, %v", got, err)
	}
	if got, err := a.RunWith(t.Context(), Command{Args: []string{"sh", "-c", "echo $X in $PWD; exit 3"}, Env: []string{"X=y"}, Dir: "/run"}, ""); got != "y in /run\n" || err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := a.Run(t.Context(), "no-such-program"); err == nil {
		t.Error("a program that is not there was started")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := a.Run(ctx, "sleep", "1000"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a program that does not end: %v", err)
	}
	// Whatever loses its parent is waited for.
	run(t, a, "sh", "-c", "(sleep 0.01 & exec sleep 0.02) & exit")
	eventually(t, func() error {
		if got := run(t, a, "sh", "-c", "grep -l '^State:.Z' /proc/[0-9]*/status; true"); got != "" {
			return fmt.Errorf("dead processes are left: %s", got)
		}
		return nil
	})
}

func eventually(t *testing.T, check func() error) {
	t.Helper()
	limit := time.NewTimer(20 * time.Second)
	defer limit.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-limit.C:
			t.Fatal(err)
		case <-tick.C:
		}
	}
}

// echo serves on b what comes, and is called from a.
func echo(t *testing.T, b *Host) string {
	t.Helper()
	l, err := b.Listen(b.IP() + ":99")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
			}()
		}
	}()
	return b.IP() + ":99"
}

func call(ctx context.Context, from *Host, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	c, err := from.Dial(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
	if _, err := io.WriteString(c, "hello\n"); err != nil {
		return err
	}
	l, err := bufio.NewReader(c).ReadString('\n')
	if err == nil && l != "hello\n" {
		err = fmt.Errorf("got %q", l)
	}
	return err
}

func TestNetwork(t *testing.T) {
	h, a, b := rig(t)
	addr := echo(t, b)
	if err := call(t.Context(), a, addr); err != nil {
		t.Error(err)
	}
	if err := call(t.Context(), a, b.IP()+":98"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("where nobody listens: %v", err)
	}
	h.Cut("b", "a")
	if err := call(t.Context(), a, addr); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("over a cut: %v", err)
	}
	h.Heal()
	if err := call(t.Context(), a, addr); err != nil {
		t.Error(err)
	}
	if err := b.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := call(t.Context(), a, addr); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a host that is frozen: %v", err)
	}
	if err := b.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := call(t.Context(), a, addr); err != nil {
		t.Error(err)
	}
}

// A frozen host does nothing; a power cut ends everything on it, frozen or not.
// What is on the disk is there again.
func TestPower(t *testing.T) {
	_, a, b := rig(t)
	addr := echo(t, b)
	ticking, err := b.Start(Command{Args: []string{"sh", "-c", "while sleep 0.01; do echo x >> /var/lib/ticks; done"}})
	if err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		st, err := os.Stat(b.Disk("ticks"))
		if err != nil {
			return 0
		}
		return st.Size()
	}
	grows := func() error {
		if size() < 3 {
			return errors.New("it does not tick")
		}
		return nil
	}
	eventually(t, grows)
	if err := b.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := size()
	wait := time.NewTimer(100 * time.Millisecond)
	<-wait.C
	if now := size(); now != at {
		t.Errorf("it went on while frozen: %d and %d bytes", at, now)
	}
	if err := b.Thaw(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if size() <= at {
			return errors.New("it does not go on")
		}
		return nil
	})
	run(t, b, "touch", "/run/gone", "/tmp/gone")
	if err := b.Freeze(t.Context()); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := b.PowerOff(); err != nil {
		t.Fatal(err)
	}
	off := time.Since(start)
	if err := ticking.Wait(t.Context()); err == nil || !strings.Contains(err.Error(), "signal") {
		t.Errorf("its process ended with %v", err)
	}
	if _, err := b.Run(t.Context(), "true"); !errors.Is(err, ErrOff) {
		t.Errorf("a program on a host that is off: %v", err)
	}
	if err := call(t.Context(), a, addr); err == nil {
		t.Error("a host that is off answers")
	}
	was := size()
	start = time.Now()
	if err := b.Boot(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("off in %s, on in %s", off, time.Since(start))
	if n := size(); n != was {
		t.Errorf("%d bytes are on the disk, there were %d", n, was)
	}
	if got := run(t, b, "sh", "-c", "ls -A /run /tmp; ls /var/lib"); got != "/run:\nbin\n\n/tmp:\nticks\n" {
		t.Errorf("after a power cut there is\n%s", got)
	}
	addr = echo(t, b)
	eventually(t, func() error { return call(t.Context(), a, addr) })
}

// Freezing is told by whoever is frozen: a host's own groups as well.
func TestPowerOffOfFrozenGroups(t *testing.T) {
	_, a, _ := rig(t)
	script := "cd /sys/fs/cgroup/freezer && mkdir pod && echo $p > pod/cgroup.procs && echo FROZEN > pod/freezer.state"
	if a.Groups.Tree.V2 {
		script = "cd /sys/fs/cgroup && mkdir pod && echo $p > pod/cgroup.procs && echo 1 > pod/cgroup.freeze"
	}
	script = "sleep 1000 >/dev/null 2>&1 & p=$!; " + script
	run(t, a, "sh", "-c", script)
	start := time.Now()
	if err := a.PowerOff(); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d > 10*time.Second {
		t.Errorf("it took %s", d)
	}
}

// Nothing is left when the program that started hosts is killed.
func TestKilled(t *testing.T) {
	needRoot(t)
	before, err := leak.Take()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "psk")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), "HOST_TEST_ABANDON="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, _ := bufio.NewReader(out).ReadString('\n')
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	var pids [3]int
	if _, err := fmt.Sscanf(said, "hosts %d %d, cleaner %d", &pids[0], &pids[1], &pids[2]); err != nil {
		t.Fatalf("it said %q", said)
	}
	eventually(t, func() error {
		for _, pid := range pids {
			if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
				if r, ok := look(pid); ok { // else somebody has to wait for it, who is not us
					return fmt.Errorf("there is still %v", r)
				}
			}
		}
		after, err := leak.Take()
		if err != nil {
			return err
		}
		if left := after.Since(before); len(left) > 0 {
			return fmt.Errorf("there is still:\n%s", strings.Join(left, "\n"))
		}
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			return errors.New("the folder is still there")
		}
		return nil
	})
}

// abandon starts hosts and waits to be killed.
func abandon() {
	dir := os.Getenv("HOST_TEST_ABANDON")
	_, g, hosts, err := two(dir)
	if err == nil {
		err = errors.Join(hosts[0].Boot(context.Background()), hosts[1].Boot(context.Background()))
	}
	var c *Cleaner
	if err == nil {
		c, err = StartCleaner(g, dir)
	}
	if err == nil {
		err = hosts[0].Freeze(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("hosts %d %d, cleaner %d\n", hosts[0].Pid(), hosts[1].Pid(), c.cmd.Process.Pid)
	select {}
}
