package main

import (
	"strings"
	"time"

	"flotilla/internal/fio"
	"flotilla/internal/judge"
)

// A network between the sites.
const (
	unshaped = ""
	slow     = "100mbit"
	far      = "5ms"
)

// shapes are what tc gives each end of a link.
var shapes = map[string]string{slow: "tbf rate 100mbit burst 64kb latency 200ms", far: "netem delay 5ms limit 20000"}

// side is who is measured, over which network.
type side struct{ who, network string }

// row compares two sides under a load.
type row struct {
	name  string
	scene string // which sides a boot has: see newWorld
	own   side
	peer  side
	aim   *judge.Aim // of the median ratio of own to peer

	job     *fio.Job // what fio does
	pages   string   // otherwise: the contents that are written,
	request int      // in requests of so many bytes,
	writers int      // by so many writers, each of which waits for its answer
}

// The scenes.
const (
	localScene = "local"
	fileScene  = "replicated"
	farScene   = "drbd"
)

// notSlower is what a ratio comes to when there is no difference but the noise of a machine that others use.
const notSlower = 0.95

func local(name string, j fio.Job) row {
	return row{name: "nbdkit/" + name, scene: localScene, own: side{who: "alone"}, peer: side{who: "nbdkit"}, aim: judge.AtLeast(notSlower), job: &j}
}

func replication(name string, j fio.Job) row {
	return row{name: "replicated/" + name, scene: fileScene, own: side{who: "file"}, peer: side{who: "alone"}, job: &j}
}

func against(name, own, peer, network string, aim *judge.Aim, j fio.Job) row {
	j.Fresh = true // or compression would win what an application's data do not give
	return row{name: "drbd/" + name, scene: farScene, own: side{own, network}, peer: side{peer, network}, aim: aim, job: &j}
}

func overSlow(name, contents string, request, writers int, aim *judge.Aim) row {
	return row{
		name: "drbd/100mbit/" + name, scene: farScene, own: side{"async", slow}, peer: side{"drbd-a", slow}, aim: aim,
		pages: contents, request: request, writers: writers,
	}
}

// The jobs.
var (
	writeOne  = fio.Job{RW: "randwrite", Block: "4k", Depth: 1}
	writeMany = fio.Job{RW: "randwrite", Block: "4k", Depth: 32}
	writeBig  = fio.Job{RW: "write", Block: "1m", Depth: 4}
	readOne   = fio.Job{RW: "randread", Block: "4k", Depth: 1}
	readMany  = fio.Job{RW: "randread", Block: "4k", Depth: 32}
	readBig   = fio.Job{RW: "read", Block: "1m", Depth: 4}
)

var allRows = []row{
	local("write-4k-qd1", writeOne), local("write-4k-qd32", writeMany), local("write-1m", writeBig),
	local("read-4k-qd1", readOne), local("read-4k-qd32", readMany), local("read-1m", readBig),

	replication("write-4k-qd1", writeOne), replication("write-4k-qd32", writeMany), replication("write-1m", writeBig),

	overSlow("made-1m", madeContents, 1<<20, 8, judge.AtLeast(2.5)),
	overSlow("sqlite-1m", sqliteContents, 1<<20, 8, judge.AtLeast(2.5)),
	overSlow("made-64k", madeContents, 64<<10, 32, nil),
	overSlow("sqlite-64k", sqliteContents, 64<<10, 32, nil),

	against("5ms/sync-4k-qd32", "sync", "drbd-c", far, judge.AtLeast(0.8), writeMany),
	{
		name: "drbd/5ms/async-4k-qd1-to-no-delay", scene: farScene, own: side{"async", far}, peer: side{"async", unshaped},
		aim: judge.AtLeast(notSlower), job: &fio.Job{RW: "randwrite", Block: "4k", Depth: 1, Fresh: true},
	},
	against("5ms/async-4k-qd1", "async", "drbd-a", far, nil, writeOne),
	against("5ms/sync-4k-qd1", "sync", "drbd-c", far, nil, writeOne),

	against("fast/async-4k-qd1", "async", "drbd-a", unshaped, nil, writeOne),
	against("fast/async-4k-qd32", "async", "drbd-a", unshaped, nil, writeMany),
	against("fast/async-1m", "async", "drbd-a", unshaped, nil, writeBig),
	against("fast/sync-4k-qd1", "sync", "drbd-c", unshaped, nil, writeOne),
	against("fast/sync-4k-qd32", "sync", "drbd-c", unshaped, nil, writeMany),
	against("fast/sync-1m", "sync", "drbd-c", unshaped, nil, writeBig),
}

func names() string {
	var out []string
	for _, r := range allRows {
		out = append(out, r.name)
	}
	return strings.Join(out, ", ")
}

func rowNamed(name string) *row {
	for i := range allRows {
		if allRows[i].name == name {
			return &allRows[i]
		}
	}
	return nil
}

// task is one pair of a row.
type task struct {
	row  *row
	pair int
}

// bootPlan is what one boot measures.
type bootPlan struct {
	scene    string
	tasks    []task
	estimate time.Duration
}

// estimate is what a pair may take, with what is waited for around its runs.
func (r *row) estimate(o options) time.Duration {
	if r.pages != "" {
		return 2*o.linked + 35*time.Second
	}
	return 2 * (o.runtime + o.ramp + 4*time.Second)
}

// plan puts the pairs of the rows into boots that keep the budget, but for a pair that is longer. A boot has sides of one scene, and as
// many rows of it as fit, so that pairs of one row are spread over time.
func plan(o options, rows []*row) (boots []bootPlan) {
	for _, scene := range []string{localScene, fileScene, farScene} {
		var now bootPlan
		for i := range o.pairs {
			for _, r := range rows {
				if r.scene != scene {
					continue
				}
				takes := r.estimate(o)
				if len(now.tasks) > 0 && now.estimate+takes > o.budget {
					boots, now = append(boots, now), bootPlan{}
				}
				now.scene, now.tasks, now.estimate = scene, append(now.tasks, task{r, i}), now.estimate+takes
			}
		}
		if len(now.tasks) > 0 {
			boots = append(boots, now)
		}
	}
	return boots
}
