package pressure

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// trigger asks for an event when tasks have waited for memory for 300 ms of two
// seconds: what the kernel calls partial stalls (some), at most one event in two
// seconds. Shorter windows are for who has CAP_SYS_RESOURCE.
const trigger = "some 300000 2000000\x00"

// Stalls calls told each time that tasks have waited for memory for long, until
// ctx is done. An error means that the kernel does not tell: it was built or
// started without pressure stall information, or we may not ask.
func Stalls(ctx context.Context, told func()) error {
	return stalls(ctx, "/proc/pressure/memory", told)
}

func stalls(ctx context.Context, file string, told func()) error {
	fd, err := unix.Open(file, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("pressure of memory: %w", err)
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, []byte(trigger)); err != nil {
		return fmt.Errorf("ask for the pressure of memory: %w", err)
	}
	end, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("pressure of memory: %w", err)
	}
	woken := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(woken)
		_, _ = unix.Write(end, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // eight bytes always fit
	})
	defer func() {
		if !stop() {
			<-woken // it must not write to a descriptor that is another file's by then
		}
		unix.Close(end)
	}()
	for {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}, {Fd: int32(end), Events: unix.POLLIN}} //nolint:gosec // small numbers
		_, err := unix.Poll(fds, -1)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for the pressure of memory: %w", err)
		case fds[0].Revents&unix.POLLERR != 0:
			return errors.New("the kernel does not tell the pressure of memory any more")
		case fds[0].Revents&unix.POLLPRI != 0:
			told()
		}
	}
}
