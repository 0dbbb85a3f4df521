package engine

import (
	"slices"

	"github.com/containerd/containerd/v2/pkg/cap"
	"golang.org/x/sys/unix"

	"github.com/podsnap/podsnap/nodeagent/cgroup"
	"github.com/podsnap/podsnap/nodeagent/spec"
)

// OwnPrivilege is what this process can give to containers. It wants Kubernetes' score of -998 and 65536 files. Without
// CAP_SYS_RESOURCE a score cannot be lowered nor a hard limit raised: then it
// is what we have ourselves.
func OwnPrivilege() spec.Privilege {
	p := spec.Privilege{PauseScore: -998, OpenFiles: 65536}
	p.Caps, _ = cap.Current() // fails only without /proc
	if slices.Contains(p.Caps, "CAP_SYS_RESOURCE") {
		return p
	}
	score, err := cgroup.Number("/proc/self/oom_score_adj")
	if err != nil {
		score = 0
	}
	p.PauseScore = max(p.PauseScore, int(score))
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err == nil {
		p.OpenFiles = min(p.OpenFiles, files.Max)
	}
	return p
}
