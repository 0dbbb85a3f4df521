package awake

import (
	"errors"
	"io"
	"os"
)

// device takes the longest time, in µs as an int of 4 bytes, that any processor
// may need to come back from idling, for as long as it is held open:
// https://docs.kernel.org/admin-guide/pm/cpuidle.html.
const device = "/dev/cpu_dma_latency"

// latency is a request for none.
func latency() (io.Closer, error) {
	f, err := os.OpenFile(device, os.O_WRONLY, 0)
	if err != nil {
		return nil, err
	}
	if _, err := f.Write(make([]byte, 4)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
