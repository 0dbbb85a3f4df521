// Package launch is the launcher of a node: a small process that starts the
// containers of the fast runtime, is their parent and outlives the node agent,
// so that containers and their exit codes do too. Server is the launcher,
// Keeper what the agent has of it: it starts a launcher when there is none and
// speaks with it over a unix socket.
//
// The launcher knows nothing of containers. It runs programs (see package
// program), holds open what parked sandboxes live by, and tells of exits. So it
// changes seldom, and an old one goes on serving after an upgrade.
package launch

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"
)

// Version is of the protocol. A keeper of another version has the launcher
// leave and puts a new one in its place, which adopts the processes.
const Version = 2

const maxFrame = 16 << 20 // bytes of a message

// Op is what the launcher is asked for.
type Op string

// The requests.
const (
	Hello Op = "hello" // who are you, what do you have
	Hold  Op = "hold"  // open Path and keep it under Name
	Drop  Op = "drop"  // close what is held under Name
	// Shelve mounts an overlay with Options under Name, for Start to take a copy
	// of; its Reply has the launcher's Pid. Unshelve unmounts it.
	Shelve   Op = "shelve"
	Unshelve Op = "unshelve"

	Start  Op = "start"  // run the program as a new process ID
	Exec   Op = "exec"   // run the program beside the process Of
	Signal Op = "signal" // send Sig to ID
	Forget Op = "forget" // ID has ended and nobody will ask again
	Leave  Op = "leave"  // end; the processes go on
)

// Request is a message to the launcher. Start and Exec carry a program behind it.
type Request struct {
	Seq  uint64 `json:"seq"`
	Op   Op     `json:"op"`
	ID   string `json:"id,omitempty"`
	Name string `json:"name,omitempty"` // Hold, Drop; Start: what is held is the program's input
	Path string `json:"path,omitempty"`
	// Base is the directory that paths of Options are relative to.
	Base    string         `json:"base,omitempty"`
	Options string         `json:"options,omitempty"`
	Root    string         `json:"root,omitempty"` // Start: what is shelved so is the program's second input
	Of      string         `json:"of,omitempty"`
	Flags   uint64         `json:"flags,omitempty"`
	Second  int            `json:"second,omitempty"` // see program.Options.Forks
	Cgroup  string         `json:"cgroup,omitempty"` // directory of a version 2 group to be born in
	Sig     syscall.Signal `json:"sig,omitempty"`
}

// Reply answers the request of the same Seq; an Exit comes by itself, with 0.
type Reply struct {
	Seq   uint64 `json:"seq"`
	Error string `json:"error,omitempty"`
	None  bool   `json:"none,omitempty"` // the error: there is no such process
	// Fault is the program's: the call that failed and its error number.
	Fault *Fault   `json:"fault,omitempty"`
	Pid   int      `json:"pid,omitempty"`
	Hello *Welcome `json:"hello,omitempty"`
	Exit  *Process `json:"exit,omitempty"`
}

// Fault is where a program failed.
type Fault struct {
	Call  int `json:"call"`
	Errno int `json:"errno"`
}

// Welcome is what a launcher is and has.
type Welcome struct {
	Version   int            `json:"version"`
	Pid       int            `json:"pid"`
	Processes []Process      `json:"processes"` // running, and ended but not forgotten
	Shelved   []string       `json:"shelved"`
	Held      map[string]int `json:"held"` // name to descriptor: /proc/<Pid>/fd/<descriptor>
}

// Process is one that the launcher has started or adopted.
type Process struct {
	ID       string    `json:"id"`
	Pid      int       `json:"pid"`
	Identity string    `json:"identity"` // tells it from another process of the same number
	Ended    bool      `json:"ended,omitempty"`
	Code     int       `json:"code,omitempty"` // 128 and the signal for one that was killed
	At       time.Time `json:"at"`             // of the end
	exec     bool
}

// ErrNone is a process or a root file system that the launcher does not know.
var ErrNone = errors.New("the launcher has no such thing")

// writeFrame writes a message: the length of all that follows, the length of
// the JSON, the JSON, the program.
func writeFrame(w io.Writer, v any, program []byte) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b := make([]byte, 8, 8+len(text)+len(program))
	binary.LittleEndian.PutUint32(b, uint32(4+len(text)+len(program)))
	binary.LittleEndian.PutUint32(b[4:], uint32(len(text)))
	b = append(append(b, text...), program...)
	_, err = w.Write(b)
	return err
}

func readFrame(r *bufio.Reader, v any) (program []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	all, text := binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint32(head[4:])
	if all > maxFrame || all < 4 || text > all-4 {
		return nil, fmt.Errorf("a message of %d bytes, %d of them JSON: not this protocol", all, text)
	}
	b := make([]byte, all-4)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b[:text], v); err != nil {
		return nil, fmt.Errorf("message: %w", err)
	}
	return b[text:], nil
}
