package program

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// output builds a program around what add adds: its descriptor 1 is a pipe,
// and it becomes a shell that runs script.
func output(t *testing.T, o Options, script string, add func(b *Builder)) (string, Child, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b Builder
	b.Call("stdout", unix.SYS_DUP3, Int(w.Fd()), Int(1), Int(0))
	if add != nil {
		add(&b)
	}
	b.Call("exec", unix.SYS_EXECVE, Text("/bin/sh"), Texts([]string{"sh", "-c", script}), Texts([]string{"A=x y"}))
	p, err := b.Build()
	if err != nil {
		t.Fatal(err)
	}
	c, err := Run(p.Image, o)
	w.Close()
	if err != nil {
		if f, ok := errors.AsType[*Fault](err); ok {
			err = p.Explain(f)
		}
		return "", c, err
	}
	out, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	reap(c.Pidfd)
	unix.Close(c.Pidfd)
	return string(out), c, nil
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	for _, fork := range []bool{false, true} {
		got, c, err := output(t, Options{Fork: fork, Inputs: []uint64{0o741}}, `echo "$A" $$; cat `+dir+"/f; stat -c %a "+dir+"/d*", func(b *Builder) {
			b.Call("umask", unix.SYS_UMASK, Int(0))
			open := b.Call("open", unix.SYS_OPENAT, Int(-100), Text(dir+"/f"), Int(unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC|unix.O_CLOEXEC), Int(0o600))
			write := b.Call("write", unix.SYS_WRITE, Int(0), Bytes([]byte("written\n")), Int(8))
			open.Into(write, 0)
			b.Call("input", unix.SYS_MKDIRAT, Int(-100), Text(fmt.Sprintf("%s/d%v", dir, fork)), Input(0))
			b.Call("allowed", unix.SYS_MKDIRAT, Int(-100), Text(dir), Int(0)).Allow(unix.EPERM, unix.ENOENT, unix.EEXIST)
			b.Call("any", unix.SYS_CHDIR, Text("/nope")).AllowAny()
			b.Call("skip", unix.SYS_CHDIR, Text("/")).Skip(2)
			b.Fail("skipped", unix.EIO)
			b.Fail("skipped", unix.EIO)
			b.Call("no skip on an error", unix.SYS_CHDIR, Text("/nope")).Skip(1).Allow(unix.ENOENT)
			b.Call("not skipped", unix.SYS_UMASK, Int(0o22))
		})
		if err != nil {
			t.Fatal(err)
		}
		modes := strings.Repeat("741\n", 1)
		if fork {
			modes += "741\n"
		}
		if want := fmt.Sprintf("x y %d\nwritten\n%s", c.Pid, modes); got != want {
			t.Errorf("fork %v: got %q, want %q", fork, got, want)
		}
	}
}

func TestFaults(t *testing.T) {
	for want, add := range map[string]func(b *Builder){
		"change: no such file or directory": func(b *Builder) { b.Call("change", unix.SYS_CHDIR, Text("/nope")).Allow(unix.EACCES, unix.EIO) },
		"no way: input/output error":        func(b *Builder) { b.Fail("no way", unix.EIO) },
		"early: not a directory": func(b *Builder) {
			b.Call("early", unix.SYS_EXECVE, Text("/bin/sh/x"), Texts(nil), Texts(nil)).Allow(unix.ENOENT)
		},
		ErrKilled.Error(): func(b *Builder) {
			pid := b.Call("who", unix.SYS_GETPID)
			pid.Into(b.Call("kill", unix.SYS_KILL, Int(0), Int(unix.SIGKILL)), 0)
		},
	} {
		for _, fork := range []bool{false, true} {
			if _, _, err := output(t, Options{Fork: fork}, "true", add); err == nil || err.Error() != want {
				t.Errorf("fork %v: got %v, want %s", fork, err, want)
			}
		}
	}
	// No zombie is left of any of them.
	if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) {
		t.Errorf("children are left: %v", err)
	}
}

// The process that counts is the one that the program forks off.
func TestSecondProcess(t *testing.T) {
	fork := func(b *Builder) {
		b.Call("fork", unix.SYS_CLONE, Int(unix.CLONE_VM|unix.CLONE_VFORK|unix.CLONE_PARENT), Int(0), Int(0), Int(0), Int(0)).Leave().Into(
			b.Call("the second one's", unix.SYS_GETPID), 5)
	}
	got, c, err := output(t, Options{Fork: true, Forks: 1}, "echo $$ $PPID", fork)
	if want := fmt.Sprintf("%d %d\n", c.Pid, os.Getpid()); err != nil || got != want {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	_, _, err = output(t, Options{Fork: true, Forks: 1}, "true", func(b *Builder) {
		fork(b)
		b.Call("late", unix.SYS_CHDIR, Text("/nope"))
	})
	if err == nil || err.Error() != "late: no such file or directory" {
		t.Errorf("got %v", err)
	}
	if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG, nil); !errors.Is(err, unix.ECHILD) {
		t.Errorf("children are left: %v", err)
	}
}

// Many at once, while the collector runs and signals fly: what the child does
// must not depend on the Go runtime, nor disturb it.
func TestManyAtOnce(t *testing.T) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for k := range 10 {
				word := fmt.Sprint(i, k)
				got, _, err := output(t, Options{}, "echo "+word, nil)
				if err != nil || got != word+"\n" {
					t.Errorf("got %q, %v, want %s", got, err, word)
				}
				_ = bytes.Repeat([]byte("garbage"), 10_000)
			}
		})
	}
	wg.Wait()
}

func FuzzLoad(f *testing.F) {
	var b Builder
	b.Call("x", unix.SYS_GETPID, Text("t"), Input(0))
	p, err := b.Build()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(p.Image)
	f.Fuzz(func(_ *testing.T, image []byte) {
		m, _, err := load(image, Options{Inputs: []uint64{1}})
		if err == nil {
			unix.Munmap(m)
		}
	})
}
