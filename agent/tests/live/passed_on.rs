//! What a traced command prints and how it ends is exactly what it is without us.

use std::{fs, io::Read, os::unix::process::ExitStatusExt, process::Output};

use testkit::goenv::GoEnv;

use crate::wrapper::{EMPTY_MAIN, Wrapper, environment, possible, write_program};

fn project() -> GoEnv {
    let go = environment().build().unwrap();
    write_program(go.work_dir(), "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(answer()) }\n");
    fs::write(go.work_dir().join("answer.go"), "package main\n\nfunc answer() int { return 42 }\n").unwrap();
    let test = "package main\n\nimport \"testing\"\n\nfunc TestAnswer(t *testing.T) {\n\tt.Log(\"answer\", answer())\n}\n\n\
                func TestSkipped(t *testing.T) { t.Skip(\"<html> & \\u00e9\") }\n";
    fs::write(go.work_dir().join("answer_test.go"), test).unwrap();
    go
}

fn bare(go: &GoEnv, arguments: &[&str]) -> Output {
    let output = go.command(arguments).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output
}

#[test]
fn go_list_json_is_the_same_byte_for_byte() {
    if !possible() {
        return;
    }
    let go = project();
    let arguments = ["list", "-json", "./..."];
    let without = bare(&go, &arguments);
    let with = Wrapper::new(&go, &[], ["go"].iter().chain(&arguments)).run().succeeded();
    assert!(without.stdout.len() > 500);
    assert_eq!(String::from_utf8(with.stdout.clone()).unwrap(), String::from_utf8(without.stdout).unwrap());
    assert_eq!(with.stderr.as_bytes(), without.stderr);
    assert_eq!(with.build().subcommand, "list");
}

#[test]
fn go_test_json_is_the_same_but_for_its_times() {
    if !possible() {
        return;
    }
    let go = project();
    let arguments = ["test", "-count=1", "-json", "./..."];
    let timeless = |stdout: &[u8]| -> Vec<serde_json::Value> {
        let lines = std::str::from_utf8(stdout).unwrap().lines();
        lines
            .map(|line| {
                let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
                let fields = event.as_object_mut().unwrap();
                fields.remove("Time");
                fields.remove("Elapsed");
                // `ok  	main.test/program	0.002s` and `--- PASS: TestAnswer (0.00s)`.
                if let Some(serde_json::Value::String(text)) = fields.get_mut("Output") {
                    *text = text.split(['(', '\t']).filter(|part| !part.trim_end().ends_with(['s', ')'])).collect();
                }
                event
            })
            .collect()
    };
    let without = timeless(&bare(&go, &arguments).stdout);
    let with = Wrapper::new(&go, &[], ["go"].iter().chain(&arguments)).run().succeeded();
    assert!(without.len() > 8, "{without:#?}");
    assert_eq!(timeless(&with.stdout), without);
    assert!(with.build().tools.iter().any(|tool| tool.tool == "link"), "{:#?}", with.build().tools);
}

#[test]
fn ten_megabytes_of_noise_are_the_same() {
    if !possible() {
        return;
    }
    let go = environment().build().unwrap();
    let mut noise = vec![0; 10 << 20];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut noise).unwrap();
    fs::write(go.work_dir().join("noise"), &noise).unwrap();
    write_program(
        go.work_dir(),
        "package main\n\nimport \"os\"\n\nfunc main() {\n\tnoise, err := os.ReadFile(\"noise\")\n\tif err != nil {\n\t\t\
         panic(err)\n\t}\n\tos.Stdout.Write(noise)\n}\n",
    );
    let ran = Wrapper::new(&go, &[], ["go", "run", "."]).run().succeeded();
    assert!(ran.stdout == noise, "{} bytes of {}", ran.stdout.len(), noise.len());
    assert_eq!(ran.build().subcommand, "run");
}

#[test]
fn exit_codes_of_go_commands_are_passed_on() {
    if !possible() {
        return;
    }
    let go = environment().build().unwrap();
    write_program(go.work_dir(), EMPTY_MAIN);
    fs::create_dir(go.work_dir().join("broken")).unwrap();
    fs::write(go.work_dir().join("broken/broken.go"), "package broken\n\nvar x int = \"\"\n").unwrap();
    for (arguments, code) in [
        (["build", "-o", "/dev/null", "."], 0),
        (["build", "-o", "/dev/null", "./broken"], 1),
        (["build", "-no-such", "-o", "x"], 2),
    ] {
        let without = go.command(arguments).output().unwrap();
        assert_eq!(without.status.code(), Some(code), "{without:?}");
        let with = Wrapper::new(&go, &[], ["go"].iter().chain(&arguments)).run();
        assert_eq!(with.status.code(), Some(code), "{}", with.stderr);
        assert_eq!(with.stderr.as_bytes(), without.stderr);
        assert_eq!(with.build().exit_code, Some(code));
        let run = with.document.run.as_ref().unwrap();
        assert_eq!((run.exit_code, run.signal.as_deref()), (Some(code), None));
    }
}

#[test]
fn a_death_by_signal_is_passed_on_from_a_traced_go_command() {
    if !possible() {
        return;
    }
    let go = environment().build().unwrap();
    write_program(
        go.work_dir(),
        "package main\n\nimport \"os\"\n\nfunc main() {\n\tos.WriteFile(\"ready\", nil, 0o644)\n\tselect {}\n}\n",
    );
    let program = "package main\n\nimport (\n\t\"os\"\n\t\"time\"\n)\n\nfunc main() {\n\tos.WriteFile(\"ready\", nil, 0o644)\n\t\
                   time.Sleep(time.Minute)\n}\n";
    fs::write(go.work_dir().join("main.go"), program).unwrap();
    for (number, name) in [(libc::SIGINT, "SIGINT"), (libc::SIGTERM, "SIGTERM")] {
        let ready = go.work_dir().join("ready");
        let _ = fs::remove_file(&ready);
        let running = Wrapper::new(&go, &[], ["sh", "-c", "go build -o program . && exec ./program"]).start();
        crate::wrapper::wait_until("the program runs", std::time::Duration::from_secs(60), || ready.exists());
        running.signal(number);
        let ran = running.wait();
        assert_eq!(ran.status.signal(), Some(number), "{}", ran.stderr);
        let run = ran.document.run.as_ref().unwrap();
        assert_eq!((run.exit_code, run.signal.as_deref()), (None, Some(name)));
        assert_eq!(ran.build().exit_code, Some(0));
    }
}
