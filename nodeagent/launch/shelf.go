package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// shelf has root file systems mounted that no container has yet, or that one
// has a copy of. They are in a mount namespace of their own: a start copies the
// launcher's mounts, and these are not among them.
type shelf struct {
	dir string // mounted over in the shelf's namespace, an empty folder elsewhere

	once sync.Once
	err  error
	do   chan func() // run by a thread in the namespace
	over chan struct{}

	mu    sync.Mutex
	names map[string]bool
}

// shelfThreads is how many threads mount: the kernel does the most of it under one
// lock, so more would only wait.
const shelfThreads = 4

func newShelf(dir string) *shelf {
	return &shelf{dir: dir, do: make(chan func()), over: make(chan struct{}), names: map[string]bool{}}
}

// close ends the threads, and with them the namespace and all that is in it.
// Containers keep what they have. Nothing may be asked of the shelf any more.
func (s *shelf) close() { close(s.over) }

// in runs f on a thread of the namespace.
func (s *shelf) in(f func() error) error {
	s.once.Do(func() { s.err = s.open() })
	if s.err != nil {
		return s.err
	}
	done := make(chan error, 1)
	s.do <- func() { done <- f() }
	return <-done
}

// open makes the namespace and the threads in it.
func (s *shelf) open() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	first := make(chan error)
	var ns int
	s.thread(first, func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNS); err != nil { // and CLONE_FS, by itself
			return fmt.Errorf("make a mount namespace: %w", err)
		}
		// What is unmounted outside is to go here too.
		if err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err == nil {
			err = unix.Mount("podsnap-roots", s.dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0700")
		}
		if err == nil {
			err = unix.Mount("", s.dir, "", unix.MS_PRIVATE, "")
		}
		if err != nil {
			return fmt.Errorf("set up a mount namespace: %w", err)
		}
		ns, err = unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		return err
	})
	if err := <-first; err != nil {
		return err
	}
	defer unix.Close(ns)
	for range min(shelfThreads, runtime.NumCPU()) - 1 {
		more := make(chan error)
		s.thread(more, func() error {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			return unix.Setns(ns, unix.CLONE_NEWNS)
		})
		if err := <-more; err != nil {
			return fmt.Errorf("enter a mount namespace: %w", err)
		}
	}
	return nil
}

func (s *shelf) thread(ready chan<- error, enter func() error) {
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := enter()
		ready <- err
		for err == nil {
			select {
			case f := <-s.do:
				f()
			case <-s.over:
				return
			}
		}
	}()
}

// put mounts an overlay under a name. base is what relative paths of the
// options are relative to.
func (s *shelf) put(name, base, options string) error {
	if filepath.Base(name) != name || name == "." || name == ".." {
		return fmt.Errorf("%q is no name", name)
	}
	s.mu.Lock()
	twice := s.names[name]
	s.names[name] = true
	s.mu.Unlock()
	if twice {
		return fmt.Errorf("%q is on the shelf already", name)
	}
	at := filepath.Join(s.dir, name)
	err := s.in(func() error {
		if err := unix.Mkdir(at, 0o700); err != nil {
			return &os.PathError{Op: "mkdir", Path: at, Err: err}
		}
		err := unix.Chdir(base)
		if err == nil {
			err = unix.Mount("overlay", at, "overlay", 0, options)
		}
		if err != nil {
			_ = unix.Rmdir(at)
			return fmt.Errorf("mount the root file system: %w", err)
		}
		return nil
	})
	if err != nil {
		s.mu.Lock()
		delete(s.names, name)
		s.mu.Unlock()
	}
	return err
}

// copy opens a copy of what is mounted under a name, to be moved to where it is
// needed.
func (s *shelf) copy(name string) (fd int, err error) {
	s.mu.Lock()
	ok := s.names[name]
	s.mu.Unlock()
	if !ok {
		return 0, fmt.Errorf("%w: root file system %q", ErrNone, name)
	}
	err = s.in(func() (err error) {
		fd, err = unix.OpenTree(unix.AT_FDCWD, filepath.Join(s.dir, name), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("copy the root file system: %w", err)
	}
	return fd, nil
}

// drop unmounts what is under a name; containers that have it keep it.
func (s *shelf) drop(name string) error {
	s.mu.Lock()
	ok := s.names[name]
	delete(s.names, name)
	s.mu.Unlock()
	if !ok {
		return nil
	}
	return s.in(func() error {
		at := filepath.Join(s.dir, name)
		err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		return errors.Join(err, unix.Rmdir(at))
	})
}

func (s *shelf) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]string, 0, len(s.names))
	for n := range s.names {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}
