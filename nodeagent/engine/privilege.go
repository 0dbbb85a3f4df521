package engine

import (
	"slices"

	"github.com/containerd/containerd/v2/pkg/cap"
	"golang.org/x/sys/unix"
)

// privilege is what the platform itself may do; a container cannot be given
// more.
type privilege struct {
	pauseScore int    // OOM score of pause processes
	openFiles  uint64 // limit of open files in a container
	caps       []string
}

// ownPrivilege wants Kubernetes' score of -998 and 65536 files. Without
// CAP_SYS_RESOURCE a score cannot be lowered nor a hard limit raised: then it
// is what we have ourselves.
func ownPrivilege() privilege {
	p := privilege{pauseScore: -998, openFiles: 65536}
	p.caps, _ = cap.Current() // fails only without /proc
	if slices.Contains(p.caps, "CAP_SYS_RESOURCE") {
		return p
	}
	score, err := number("/proc/self/oom_score_adj")
	if err != nil {
		score = 0
	}
	p.pauseScore = max(p.pauseScore, int(score))
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil {
		p.openFiles = min(p.openFiles, files.Max)
	}
	return p
}
